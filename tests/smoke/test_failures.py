"""Full disks, NaN and too little memory: a clear end, or the same result with smaller pieces."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import Workplace, stepping

from llmforge.checkpoint import verify

SMALL_RECIPE = """\
[run]
id = "tiny"
seed = 7
[model]
name = "faulty"
[tokenizer]
name = "bytes"
[data]
name = "text"
[data.text]
train = "train.txt"
validation = "valid.txt"
[train]
max_steps = 20
batch_size = 8
log_every = 3
[eval]
every = 6
[checkpoint]
every = 2
"""

EVALUATED = {"eval.batch_size": "2"}
"""Rows of an evaluation decide about its last digits: the same in runs that are compared."""


@pytest.fixture
def faulty(tmp_path: Path, faults: str) -> Workplace:
    """A place whose model has faults on demand."""
    return Workplace(
        tmp_path / "faulty", {"train.precision": "fp32"}, {"PYTHONPATH": faults}, SMALL_RECIPE
    )


def with_fault(workplace: Workplace, **variables: str) -> Workplace:
    """Return the place with variables that switch a fault on."""
    return dataclasses.replace(workplace, environment={**workplace.environment, **variables})


def all_verify(workplace: Workplace) -> bool:
    """Return whether every checkpoint is sound."""
    return not any(verify(path) for path in workplace.checkpoints)


def test_nan_ends_the_run_and_never_reaches_a_checkpoint(tmp_path: Path, faulty: Workplace) -> None:
    sound = dataclasses.replace(faulty, path=tmp_path / "sound")
    sound.train_here()

    output = with_fault(faulty, FAULT_NAN_AT="9").train_here(expect=1)

    assert "not finite at or before step 9" in output
    assert "Traceback" not in output
    assert faulty.record["state"] == "failed"
    assert "step-00000000" < faulty.checkpoints[-1].name < "step-00000009"
    assert all_verify(faulty)
    assert "NaN" not in faulty.run.metrics.read_text()
    faulty.train_here()
    assert faulty.result() == sound.result()


def test_a_learning_rate_that_diverges_keeps_the_last_good_checkpoint(workplace: Workplace) -> None:
    settings = {"optimizer.adamw.lr": "1e30", "train.grad_clip": "0"}
    output = dataclasses.replace(workplace, settings=settings).train_here(expect=1)

    assert "not finite" in output
    assert "lower learning rate" in output
    assert workplace.record["state"] == "failed"
    for checkpoint in workplace.checkpoints:
        metadata = json.loads((checkpoint / "metadata.json").read_text())
        assert metadata["train_loss"] == metadata["train_loss"]


@pytest.mark.parametrize("given", ["8", None])
def test_too_little_memory_halves_the_micro_batch_and_changes_nothing_else(
    tmp_path: Path, faulty: Workplace, given: str | None
) -> None:
    smaller = dataclasses.replace(
        faulty, path=tmp_path / "smaller", settings={"train.micro_batch_size": "2", **EVALUATED}
    )
    smaller.train_here()

    settings = {"train.micro_batch_size": given} if given else {}
    settings |= EVALUATED
    limited = with_fault(dataclasses.replace(faulty, settings=settings), FAULT_MEMORY="3")
    output = limited.train_here("--set", "train.stop_at=9")
    assert "micro-batch is now 4" in output
    assert "micro-batch is now 2, the global batch stays 8" in output
    assert limited.record["resolved"]["micro_batch_size"] == 2

    going_on = with_fault(dataclasses.replace(faulty, settings=EVALUATED), FAULT_MEMORY="3")
    output = going_on.train_here()
    assert "batch 8 = 2 per micro-batch x 4 accumulated" in output
    assert "micro-batch is now" not in output  # what fits was remembered
    assert limited.result() == smaller.result()


def test_gradients_gathered_before_memory_ran_out_are_dropped(
    tmp_path: Path, faulty: Workplace
) -> None:
    settings = {"train.micro_batch_size": "2", **EVALUATED}
    smaller = dataclasses.replace(faulty, path=tmp_path / "smaller", settings=settings)
    smaller.train_here()

    settings = {"train.micro_batch_size": "4", **EVALUATED}
    second = with_fault(
        dataclasses.replace(faulty, settings=settings), FAULT_MEMORY="3", FAULT_MEMORY_FROM="1"
    )
    assert "micro-batch is now 2" in second.train_here()
    assert second.result() == smaller.result()


def test_the_micro_batch_that_fits_is_on_disk_before_the_next_step(faulty: Workplace) -> None:
    process = with_fault(faulty, FAULT_MEMORY="3").start()
    assert process.wait_for(lambda _: bool(faulty.checkpoints))
    process.kill()
    assert faulty.record["resolved"]["micro_batch_size"] == 2


def test_an_evaluation_that_does_not_fit_is_made_of_less_and_a_resume_knows(
    faulty: Workplace,
) -> None:
    two = dataclasses.replace(faulty, settings={"train.micro_batch_size": "2"})
    limited = with_fault(two, FAULT_MEMORY="3")
    output = limited.train_here("--set", "train.stop_at=9")
    assert "out of memory evaluating at step 6: 2 sequences at once now" in output
    assert limited.record["resolved"]["eval_batch_size"] == 2
    assert "out of memory" not in limited.train_here()
    values = {row["step"]: row["val/loss"] for row in limited.rows if "val/loss" in row}
    assert list(values) == [6, 12, 18, 20]

    whole = dataclasses.replace(two, path=faulty.path.parent / "whole")
    whole.train_here()
    assert whole.record["resolved"]["eval_batch_size"] > 2
    for row in whole.rows:
        if "val/loss" in row:
            assert row["val/loss"] == pytest.approx(values[row["step"]], rel=1e-6)


def test_not_even_one_sequence_fits(faulty: Workplace) -> None:
    output = with_fault(faulty, FAULT_MEMORY="-1").train_here(expect=1)
    assert "out of memory with one sequence at a time; weights" in output
    assert "docs/troubleshooting.md#memory" in output
    assert "Traceback" not in output
    path = faulty.run.memory / "rank0-step-1-micro-batch-1.json"
    assert str(path) in output
    report = json.loads(path.read_text(encoding="utf-8"))
    assert "you tried to allocate" in report["error"]
    assert report["groups"]["weights"] > 0
    largest = [item["bytes"] for item in report["largest"]]
    assert largest == sorted(largest, reverse=True)
    assert {"group", "name", "shape", "dtype"} < set(report["largest"][0])
    assert 0 < report["process"] < report["total"]


# A full disk ----------------------------------------------------------------------------------


def check_clear_end(workplace: Workplace, output: str) -> None:
    """Check what a run says and leaves when there is no room."""
    assert "Traceback" not in output
    assert "no room" in output or "not enough disk space" in output
    assert "free some space" in output
    assert workplace.checkpoints
    assert all_verify(workplace)


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_the_run_and_loses_no_checkpoint(
    tmp_path: Path, halfway: Workplace, reference: Reference
) -> None:
    workplace = halfway.copy(tmp_path / "copy")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))

    output = workplace.start(preexec=limit).finish(expect=1).output

    check_clear_end(workplace, output)
    assert workplace.checkpoints[-1].name == "step-00000031"
    assert workplace.record["state"] == "failed"
    workplace.train()
    assert workplace.result() == reference("fp32").result()


def _may_mount() -> bool:
    return (
        os.geteuid() == 0
        and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0
    )


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Let ``path`` be a file system of 4 MB, with what is there now."""
    kept = path.with_name("kept")
    path.rename(kept)
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], check=True)
    try:
        shutil.copytree(kept, path, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


if _may_mount():
    # Elsewhere the test above covers a disk that takes no more.

    @pytest.mark.parametrize(
        "left", [0, *(pytest.param(more, marks=pytest.mark.slow) for more in (40_000, 300_000))]
    )
    def test_a_full_disk_ends_the_run_and_space_brings_it_back(
        tmp_path: Path, halfway: Workplace, reference: Reference, left: int
    ) -> None:
        workplace = halfway.copy(tmp_path / "copy")
        with small_disk(workplace.run.root):
            process = workplace.start()
            assert process.wait_for(stepping)
            _fill(workplace.run.root, left)

            output = process.finish(expect=1).output

            check_clear_end(workplace, output)
            (workplace.run.root / "filler").unlink()
            workplace.train()
            assert workplace.result() == reference("fp32").result()


def _fill(disk: Path, left: int) -> None:
    """Leave ``left`` bytes free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - left))
