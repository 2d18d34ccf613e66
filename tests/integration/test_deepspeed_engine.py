"""The engines of ``deepspeed`` on two real ranks, against that of one device."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_checks import STEPS, discarding, looking, reading, resumed
from engine_ranks import Setup, make_engine, make_model, run_ranks, train, whole_state

from llmforge.cli.logs import show_logs
from llmforge.interfaces import EngineState
from llmforge_plugins.backends._deepspeed_import import import_deepspeed

pytest.importorskip("deepspeed")

RANKS = 2
STAGES = (0, 1, 2, 3)
DROPOUT = {"dropout": 0.1}
PLAIN = {
    (stage, precision): Setup("deepspeed", {"stage": stage}, precision, model=DROPOUT)
    for precision in ("fp32", "bf16")
    for stage in STAGES
}
OFFLOADED = {
    "optimizer of stage 1": {"stage": 1, "offload_optimizer": "cpu"},
    "optimizer of stage 2": {"stage": 2, "offload_optimizer": "cpu"},
    "all of stage 3": {"stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
    # as in a model whose parameters are all larger than what ZeRO keeps whole
    "small parts of stage 3": {
        "stage": 3,
        "config": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},
    },
}
FROZEN = {
    key: Setup("deepspeed", {"stage": key[0]}, key[1], model={"frozen": ("embedding.weight",)})
    for key in ((1, "bf16"), (2, "fp32"), (3, "bf16"))
}
RECOMPUTED = {"activation_checkpointing": "full"}
LOOKED_AT = [(0, "bf16"), (1, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")]
"""One of each of DeepSpeed's optimizers."""


def tolerance(stage: int, precision: str) -> float:
    """Return the largest relative difference of loss and gradient norm from one device's."""
    return 2e-5 if precision == "fp32" or stage == 0 else 5e-3


def work(rank: int, directory: Path) -> None:
    said = io.StringIO()
    found: dict[str, Any] = {
        "curves": {},
        "states": {},
        "checks": {},
        "offloaded": {},
        "frozen": {},
    }
    log = logging.FileHandler(directory / f"log-{rank}.txt")
    logging.getLogger("llmforge").addHandler(log)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        show_logs("info")
        quick_memory_reports()
        for key, setup in PLAIN.items():
            engine = make_engine(setup, directory)
            found["curves"][key] = train(engine, range(STEPS))
            found["states"][key] = whole_state(engine)
            found["checks"][key] = {"resumed": resumed(setup, directory)}
            if key in LOOKED_AT:
                found["checks"][key] |= looking(setup, directory)
                found["checks"][key] |= discarding(setup, directory)
                found["checks"][key] |= reading(setup, directory) if key[0] else {}
        for name, options in OFFLOADED.items():
            setup = Setup("deepspeed", options, model=DROPOUT)
            found["offloaded"][name] = resumed(setup, directory)
        for key in FROZEN:
            found["frozen"][key] = resumed(FROZEN[key], directory)
        found["recomputed"] = {
            stage: train(
                make_engine(
                    Setup("deepspeed", {"stage": stage}, model=DROPOUT, train=RECOMPUTED), directory
                ),
                range(STEPS),
            )
            for stage in (0, 2, 3)
        }
    found["said"] = said.getvalue()
    found["logged"] = (directory / f"log-{rank}.txt").read_text(encoding="utf-8")
    torch.save(found, directory / f"found-{rank}.pt")


def quick_memory_reports() -> None:
    """Leave out what DeepSpeed logs of memory: for each of ten lines it collects garbage."""
    import_deepspeed("cpu")
    from deepspeed.runtime import bf16_optimizer

    bf16_optimizer.see_memory_usage = lambda *_, **__: None


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    directory = tmp_path_factory.mktemp("deepspeed")
    run_ranks(RANKS, work, directory)
    return [torch.load(directory / f"found-{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Curve and final state of one device, by precision."""
    directory = tmp_path_factory.mktemp("single")
    results = {}
    for precision in ("fp32", "bf16"):
        engine = make_engine(Setup("single", precision=precision, model=DROPOUT), directory)
        results[precision] = train(engine, range(STEPS)), whole_state(engine)
    return results


def engine_name(key: tuple[int, str]) -> str:
    """Return what a test is called by."""
    return f"stage{key[0]}-{key[1]}"


every_engine = pytest.mark.parametrize("key", PLAIN, ids=engine_name)
one_of_each = pytest.mark.parametrize("key", LOOKED_AT, ids=engine_name)


@every_engine
def test_it_trains_to_the_losses_of_one_device(
    key: tuple[int, str], found: list[dict[str, Any]], single: dict[str, Any]
) -> None:
    curve, _ = single[key[1]]
    for rank in found:
        for mine, theirs in zip(rank["curves"][key], curve, strict=True):
            assert mine == pytest.approx(theirs, rel=tolerance(*key))


@pytest.mark.parametrize("stage", STAGES)
def test_the_slices_of_all_ranks_are_the_state_of_one_device(
    stage: int, found: list[dict[str, Any]], single: dict[str, Any]
) -> None:
    mine: EngineState = found[0]["states"][stage, "fp32"]
    _, theirs = single["fp32"]
    for ours, other in ((mine.model, theirs.model), (mine.optimizer, theirs.optimizer)):
        assert ours.keys() == other.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, other[name], rtol=2e-3, atol=2e-5)


@every_engine
def test_a_run_saved_and_resumed_ends_with_equal_bits(
    key: tuple[int, str], found: list[dict[str, Any]]
) -> None:
    for rank in found:
        result = rank["checks"][key]["resumed"]
        assert result["loaded"] == []
        assert result["again"] == result["curve"]
        assert result["end"] == []


@pytest.mark.parametrize("name", OFFLOADED)
def test_what_is_offloaded_is_saved_and_resumed_with_equal_bits(
    name: str, found: list[dict[str, Any]]
) -> None:
    stage = OFFLOADED[name]["stage"]
    for rank in found:
        result = rank["offloaded"][name]
        assert (result["loaded"], result["end"]) == ([], [])
        assert result["again"] == result["curve"]
        for mine, theirs in zip(result["curve"], rank["curves"][stage, "fp32"][2:], strict=True):
            assert mine == pytest.approx(theirs, rel=2e-5)


@pytest.mark.parametrize("key", FROZEN, ids=engine_name)
def test_frozen_weights_keep_their_bits(key: tuple[int, str], found: list[dict[str, Any]]) -> None:
    for rank in found:
        result = rank["frozen"][key]
        assert (result["loaded"], result["end"]) == ([], [])
        weights = result["weights"]["embedding.weight"]
        assert torch.equal(weights, make_model().embedding.weight.to(weights.dtype))
        assert "embedding.weight" not in result["saved"]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_recomputing_activations_changes_no_bit(stage: int, found: list[dict[str, Any]]) -> None:
    assert found[0]["recomputed"][stage] == found[0]["curves"][stage, "fp32"]


@pytest.mark.parametrize("key", [key for key in LOOKED_AT if key[0]], ids=engine_name)
def test_a_rank_reads_only_the_slices_it_holds(
    key: tuple[int, str], found: list[dict[str, Any]]
) -> None:
    for rank in found:
        assert rank["checks"][key]["read"] == rank["checks"][key]["held"]


@one_of_each
def test_whole_weights_are_lent_and_evaluation_and_looking_disturb_nothing(
    key: tuple[int, str], found: list[dict[str, Any]]
) -> None:
    for rank in found:
        checks = rank["checks"][key]
        assert checks["whole"]
        assert checks["undisturbed"] == []
        assert torch.equal(checks["logits"], found[0]["checks"][key]["logits"])
        assert checks["evaluated"] == found[0]["checks"][key]["evaluated"]


@one_of_each
def test_a_discarded_micro_batch_leaves_no_trace(
    key: tuple[int, str], found: list[dict[str, Any]]
) -> None:
    assert [rank["checks"][key]["discarded"] for rank in found] == [[]] * RANKS


@one_of_each
def test_numbers_that_are_not_finite_are_noticed_by_every_rank(
    key: tuple[int, str], found: list[dict[str, Any]]
) -> None:
    assert all(rank["checks"][key]["healthy"] and rank["checks"][key]["broken"] for rank in found)


def test_what_deepspeed_says_is_in_the_log_file_and_not_on_the_terminal(
    found: list[dict[str, Any]],
) -> None:
    assert [rank["said"] for rank in found] == [""] * RANKS
    assert "Gradients are non-finite" in found[0]["logged"]
