"""LoRA under every backend on two real ranks: one device's numbers, and nothing frozen is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_checks import STEPS, resumed
from engine_ranks import Setup, make_engine, make_model, run_ranks, train, whole_state

pytest.importorskip("deepspeed")

RANKS = 2
LORA = {"lora_rank": 3, "dropout": 0.1}
RECOMPUTED = {"activation_checkpointing": "full"}
SETUPS = {
    "ddp": Setup("ddp", model=LORA),
    "fsdp, recomputed": Setup("fsdp", model=LORA, train=RECOMPUTED),
    "fsdp, bf16": Setup("fsdp", precision="bf16", model=LORA),
    "zero 2": Setup("deepspeed", {"stage": 2}, model=LORA),
    "zero 3, recomputed": Setup("deepspeed", {"stage": 3}, model=LORA, train=RECOMPUTED),
    "zero 3, bf16": Setup("deepspeed", {"stage": 3}, "bf16", model=LORA),
}
TOLERANCE = {"fp32": 2e-5, "bf16": 2e-2}
"""Largest relative difference of loss and gradient norm from one device's, whose norms are fp32."""


def work(rank: int, directory: Path) -> None:
    found = {name: resumed(setup, directory) for name, setup in SETUPS.items()}
    torch.save(found, directory / f"found-{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    directory = tmp_path_factory.mktemp("lora")
    run_ranks(RANKS, work, directory)
    return [torch.load(directory / f"found-{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Curve and saved names of one device, by precision."""
    directory = tmp_path_factory.mktemp("single")
    results = {}
    for precision in ("fp32", "bf16"):
        engine = make_engine(Setup("single", precision=precision, model=LORA), directory)
        results[precision] = train(engine, range(STEPS)), set(whole_state(engine).model)
    return results


def test_recomputing_changes_no_bit_though_no_input_needs_a_gradient(
    tmp_path: Path, single: dict[str, Any]
) -> None:
    engine = make_engine(Setup("single", model=LORA, train=RECOMPUTED), tmp_path)
    assert train(engine, range(STEPS)) == single["fp32"][0]


@pytest.mark.parametrize("name", SETUPS)
def test_it_trains_to_the_losses_of_one_device(
    name: str, found: list[dict[str, Any]], single: dict[str, Any]
) -> None:
    precision = SETUPS[name].precision
    for rank in found:
        for mine, theirs in zip(rank[name]["curve"], single[precision][0][2:], strict=True):
            assert mine == pytest.approx(theirs, rel=TOLERANCE[precision])


@pytest.mark.parametrize("name", SETUPS)
def test_a_run_saved_and_resumed_ends_with_equal_bits(
    name: str, found: list[dict[str, Any]], single: dict[str, Any]
) -> None:
    for rank in found:
        result = rank[name]
        assert (result["loaded"], result["end"]) == ([], [])
        assert result["again"] == result["curve"]
        assert result["saved"] == single["fp32"][1]


@pytest.mark.parametrize("name", SETUPS)
def test_frozen_weights_stay_as_they_were_built(name: str, found: list[dict[str, Any]]) -> None:
    built = dict(make_model(**LORA).named_parameters())  # type: ignore[arg-type]
    for rank in found:
        weights = rank[name]["weights"]
        assert weights.keys() == built.keys()
        for key, parameter in built.items():
            same = torch.equal(weights[key], parameter.to(weights[key].dtype))
            assert same != parameter.requires_grad, key
