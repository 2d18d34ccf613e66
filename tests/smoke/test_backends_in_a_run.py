"""Whole runs on sharding backends: handed from one to the other, and under fire."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
from forge_process import ForgeProcess, Workplace

pytest.importorskip("deepspeed")

LENGTH = {"train.max_steps": "24", "train.log_every": "1", "checkpoint.every": "4"}
TWO = ("--nproc-per-node", "2")
FSDP = (*TWO, "--set", "backend.name=fsdp")
ZERO = (*TWO, "--set", "backend.name=deepspeed")
SHARDED: Mapping[str, tuple[str, ...]] = {
    "fsdp": FSDP,
    "zero-3": (*ZERO, "--set", "backend.deepspeed.stage=3"),
}


def fingerprint(workplace: Workplace) -> dict[str, str]:
    """Return hashes of metrics and of all tensors of the newest checkpoint."""
    files = [workplace.run.metrics, *sorted(workplace.checkpoints[-1].glob("*.safetensors"))]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def ranks(process: ForgeProcess) -> list[psutil.Process]:
    """Return the training processes of a launcher, the leader first."""
    found = {}
    for child in psutil.Process(process.process.pid).children(recursive=True):
        try:
            rank = child.environ().get("RANK")
            if rank is not None and child.ppid() == process.process.pid:
                found[int(rank)] = child
        except psutil.Error:
            continue
    return [found[rank] for rank in sorted(found)]


def saved_before(step: int) -> Callable[[ForgeProcess], bool]:
    """Return the instant at which a checkpoint of ``step`` or a later one is there."""
    return lambda process: any(
        path.name >= f"step-{step:08}" for path in process.workplace.checkpoints
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_handed_from_backend_to_backend_ends_as_if_it_never_moved(tmp_path: Path) -> None:
    straight = Workplace(tmp_path / "straight", LENGTH)
    straight.train()
    moved = Workplace(tmp_path / "moved", LENGTH)
    for stop, arguments in (
        (6, FSDP),
        (12, SHARDED["zero-3"]),
        (18, ("--set", "backend.name=single")),
        (24, (*ZERO, "--set", "backend.deepspeed.stage=1")),
    ):
        moved.train(*arguments, "--set", f"train.stop_at={stop}")
        assert moved.rows[-1]["step"] == stop
    assert moved.record["state"] == "completed"
    assert [row["step"] for row in moved.rows] == [row["step"] for row in straight.rows]
    for mine, other in zip(moved.rows, straight.rows, strict=True):
        assert mine["tokens_seen"] == other["tokens_seen"]
        for key in other.keys() & {"train/loss", "grad_norm", "val/loss"}:
            assert mine[key] == pytest.approx(other[key], rel=2e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "arguments",
    [("--set", "backend.name=ddp", *TWO), FSDP, (*ZERO, "--set", "backend.deepspeed.stage=2")],
    ids=["ddp", "fsdp", "zero-2"],
)
def test_compiled_blocks_learn_the_same(arguments: tuple[str, ...], tmp_path: Path) -> None:
    # compiled kernels draw other random numbers
    short = LENGTH | {"train.max_steps": "8", "model.transformer.dropout": "0.0"}
    eager, compiled = Workplace(tmp_path / "eager", short), Workplace(tmp_path / "compiled", short)
    eager.train()
    process = compiled.train(*arguments, "--set", "train.compile=true")
    assert ", compiled: " in process.output
    for mine, other in zip(compiled.rows, eager.rows, strict=True):
        assert mine["train/loss"] == pytest.approx(other["train/loss"], rel=2e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", SHARDED)
@pytest.mark.parametrize("shot", ["kill of a follower", "kill of the leader", "SIGTERM to one"])
def test_a_run_that_lost_a_rank_goes_on_to_the_same_bits(
    backend: str, shot: str, tmp_path: Path
) -> None:
    whole = Workplace(tmp_path / "whole", LENGTH)
    whole.train(*SHARDED[backend])
    hit = Workplace(tmp_path / "hit", LENGTH)
    process = hit.start(*SHARDED[backend])
    assert process.wait_for(saved_before(4))
    leader, follower = ranks(process)
    if shot == "SIGTERM to one":
        follower.send_signal(signal.SIGTERM)
        process.finish(expect=75)
    else:
        (leader if "leader" in shot else follower).kill()
        process.finish(expect=1)
    hit.train(*SHARDED[backend])
    assert hit.record["state"] == "completed"
    assert fingerprint(hit) == fingerprint(whole)
