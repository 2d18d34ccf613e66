"""Checkpoints that engines on two real ranks write: what they hold, read by any other engine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from engine_ranks import Setup, differing, make_engine, run_ranks, train, whole_state

from llmforge.checkpoint import (
    CheckpointWriter,
    Retention,
    SaveRequest,
    SelfDescription,
    list_checkpoints,
    load_tensors,
    verify,
)
from llmforge.checkpoint.gloo_group import GlooCrew
from llmforge.interfaces import Engine, EngineState

RANKS = 2
SETUPS = {"fsdp": Setup("fsdp")} | (
    {f"zero-{stage}": Setup("deepspeed", {"stage": stage}) for stage in (0, 1, 2, 3)}
    if importlib.util.find_spec("deepspeed")
    else {}
)


def greatest(number: int) -> int:
    numbers = torch.tensor([number])
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
    return int(numbers)


def save(engine: Engine, directory: Path) -> None:
    """Save the state of all ranks as step 2 below ``directory``."""
    state = engine.state()
    with CheckpointWriter(
        directory,
        description=SelfDescription(recipe="", recipe_hash="", world_size=RANKS),
        retention=Retention(),
        on_saved=lambda _: None,
        crew=GlooCrew(dist.new_group(backend="gloo"), timeout=60),
        agree=greatest,
    ) as writer:
        writer.prepare(state.model, state.optimizer, state.slices)
        request = SaveRequest(
            step=2,
            model=state.model,
            optimizer=state.optimizer,
            slices=state.slices,
            trainer=dict(state.values),
            metadata={},
        )
        assert writer.submit(request)


def stored(path: Path, values: Any) -> EngineState:
    """Return what the checkpoint in ``path`` holds, read when it is asked for."""
    return EngineState(
        load_tensors(path, "model", verified=True),
        load_tensors(path, "optimizer", verified=True),
        values,
    )


def work(rank: int, directory: Path) -> None:
    found: dict[str, Any] = {}
    for name, setup in SETUPS.items():
        engine = make_engine(setup, directory)
        train(engine, range(2))
        whole = whole_state(engine)
        save(engine, directory / name)
        dist.barrier()
        checkpoint = stored(directory / name / "step-00000002", whole.values)
        again = make_engine(setup, directory)
        again.load_state(checkpoint)
        found[name] = {"state": whole, "reloaded": differing(whole_state(again), whole)}
        if name != "fsdp":
            other = make_engine(SETUPS["fsdp"], directory)
            other.load_state(checkpoint)
            found[name]["in fsdp"] = differing(whole_state(other), whole)
    torch.save(found, directory / f"found-{rank}.pt")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each setup has saved a checkpoint."""
    directory = tmp_path_factory.mktemp("engines")
    run_ranks(RANKS, work, directory)
    return directory


@pytest.mark.parametrize("name", SETUPS)
def test_the_checkpoint_holds_the_state_to_the_bit(place: Path, name: str) -> None:
    found = torch.load(place / "found-0.pt", weights_only=False)[name]
    [checkpoint] = list_checkpoints(place / name)
    assert verify(checkpoint.path) == []
    assert differing(stored(checkpoint.path, {}), found["state"]) == []


@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("rank", range(RANKS))
def test_ranks_read_it_back_into_their_engines(place: Path, name: str, rank: int) -> None:
    found = torch.load(place / f"found-{rank}.pt", weights_only=False)[name]
    assert found["reloaded"] == []
    assert found.get("in fsdp", []) == []


@pytest.mark.parametrize("name", SETUPS)
def test_a_single_process_goes_on_from_it(place: Path, name: str, tmp_path: Path) -> None:
    found = torch.load(place / "found-0.pt", weights_only=False)[name]
    engine = make_engine(Setup("single"), tmp_path)
    engine.load_state(stored(place / name / "step-00000002", found["state"].values))
    assert differing(whole_state(engine), found["state"]) == []
    train(engine, range(2, 4))
    assert engine.finite()


@pytest.mark.parametrize("name", SETUPS)
def test_only_what_is_sharded_is_written_in_slices(place: Path, name: str) -> None:
    path = place / name / "step-00000002"
    sharded = name != "zero-0"
    for part in ("model", "optimizer"):
        assert (path / f"{part}.safetensors").exists() != sharded
        assert (path / f"{part}.safetensors.index.json").exists() == sharded
        assert len(list(path.glob(f"{part}-0000?-of-00002.safetensors"))) == RANKS * sharded
