"""The engine of ``fsdp`` on two real ranks, against that of one device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from engine_checks import STEPS, discarding, looking, reading, resumed
from engine_ranks import Setup, make_engine, run_ranks, train, whole_state
from torch.distributed.fsdp import FSDPModule
from torch.utils._python_dispatch import TorchDispatchMode

from llmforge.interfaces import EngineState

RANKS = 2
DROPOUT = {"dropout": 0.1}
VARIANTS = {
    "as it is": Setup("fsdp", model=DROPOUT),
    "weights kept": Setup("fsdp", {"reshard_after_forward": False}, model=DROPOUT),
    "offloaded": Setup("fsdp", {"cpu_offload": True}, model=DROPOUT),
    "reduced often": Setup("fsdp", {"reduce_every_micro_batch": True}, model=DROPOUT),
    "recomputed": Setup("fsdp", train={"activation_checkpointing": "full"}, model=DROPOUT),
    "half recomputed": Setup("fsdp", train={"activation_checkpointing": 2}, model=DROPOUT),
    "bf16": Setup("fsdp", precision="bf16", model=DROPOUT),
}
TOLERANCE = {"fp32": 2e-5, "bf16": 5e-3}
"""Largest relative difference of loss and gradient norm from one device's."""


def work(rank: int, directory: Path) -> None:
    found: dict[str, Any] = {"curves": {}}
    for name, setup in VARIANTS.items():
        engine = make_engine(setup, directory)
        found["curves"][name] = train(engine, range(STEPS))
        if name in ("as it is", "bf16"):
            found[f"state of {name}"] = whole_state(engine)
    found["resumed"] = {name: resumed(VARIANTS[name], directory) for name in ("as it is", "bf16")}
    found |= reading(Setup("fsdp"), directory) | looking(VARIANTS["as it is"], directory)
    found |= discarding(VARIANTS["bf16"], directory)
    found |= communication(directory)
    torch.save(found, directory / f"found-{rank}.pt")


def communication(directory: Path) -> dict[str, Any]:
    """Count what a step of two micro-batches exchanges."""
    counts = {}
    for often in (False, True):
        engine = make_engine(Setup("fsdp", {"reduce_every_micro_batch": often}), directory)
        units = sum(isinstance(part, FSDPModule) for part in engine.model.modules())
        train(engine, range(1))
        with Scatters() as scatters:
            train(engine, range(1, 2))
        counts[often] = scatters.count / units
    return {"scatters": counts}


class Scatters(TorchDispatchMode):
    """Counts the reduce-scatters within it."""

    count = 0

    def __torch_dispatch__(  # type: ignore[override]
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += "reduce_scatter" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    directory = tmp_path_factory.mktemp("fsdp")
    run_ranks(RANKS, work, directory)
    return [torch.load(directory / f"found-{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Curve and final state of one device, by precision."""
    assert not dist.is_initialized() or dist.get_world_size() == 1
    directory = tmp_path_factory.mktemp("single")
    results = {}
    for precision in ("fp32", "bf16"):
        engine = make_engine(Setup("single", precision=precision, model=DROPOUT), directory)
        results[precision] = train(engine, range(STEPS)), whole_state(engine)
    return results


@pytest.mark.parametrize("name", VARIANTS)
def test_it_trains_to_the_losses_of_one_device(
    name: str, found: list[dict[str, Any]], single: dict[str, Any]
) -> None:
    precision = VARIANTS[name].precision
    curve, _ = single[precision]
    for rank in found:
        for mine, theirs in zip(rank["curves"][name], curve, strict=True):
            assert mine == pytest.approx(theirs, rel=TOLERANCE[precision])


@pytest.mark.parametrize("name", ["recomputed", "half recomputed"])
def test_recomputing_activations_changes_no_bit(name: str, found: list[dict[str, Any]]) -> None:
    assert found[0]["curves"][name] == found[0]["curves"]["as it is"]


def test_the_slices_of_all_ranks_are_the_state_of_one_device(
    found: list[dict[str, Any]], single: dict[str, Any]
) -> None:
    mine: EngineState = found[0]["state of as it is"]
    _, theirs = single["fp32"]
    for ours, other in ((mine.model, theirs.model), (mine.optimizer, theirs.optimizer)):
        assert ours.keys() == other.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, other[name], rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("name", ["as it is", "bf16"])
def test_a_run_saved_and_resumed_ends_with_equal_bits(
    name: str, found: list[dict[str, Any]]
) -> None:
    for rank in found:
        result = rank["resumed"][name]
        assert result["loaded"] == []
        assert result["again"] == result["curve"]
        assert result["end"] == []


def test_a_rank_reads_only_the_slices_it_holds(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank["read"] == rank["held"]


def test_whole_weights_are_lent_and_evaluation_and_looking_disturb_nothing(
    found: list[dict[str, Any]],
) -> None:
    for rank in found:
        assert rank["whole"]
        assert rank["undisturbed"] == []
        assert torch.equal(rank["logits"], found[0]["logits"])
        assert rank["evaluated"] == found[0]["evaluated"]


def test_a_discarded_micro_batch_leaves_no_trace(found: list[dict[str, Any]]) -> None:
    assert [rank["discarded"] for rank in found] == [[]] * RANKS


def test_numbers_that_are_not_finite_are_noticed_by_every_rank(
    found: list[dict[str, Any]],
) -> None:
    assert all(rank["healthy"] and rank["broken"] for rank in found)


def test_gradients_are_exchanged_once_a_step_unless_told_otherwise(
    found: list[dict[str, Any]],
) -> None:
    assert found[0]["scatters"] == {False: 1.0, True: 2.0}
