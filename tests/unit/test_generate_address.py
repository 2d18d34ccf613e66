"""Addresses of checkpoints: runs, parts of their ids, steps, and paths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llmforge.checkpoint import CheckpointWriter, Retention, SaveRequest, SelfDescription
from llmforge.errors import CheckpointError, RunError, UsageError
from llmforge.generation import locate
from llmforge.rundir import RunDirectory, RunRecord, write_record


def make_run(root: Path, run_id: str, *, steps: int = 3, best: int | None = 2) -> RunDirectory:
    """Write a run with a checkpoint at each step from 1."""
    directory = RunDirectory(root / run_id)
    directory.path.mkdir(parents=True)
    write_record(directory, RunRecord(run_id))
    description = SelfDescription(recipe="", recipe_hash="0" * 64)
    with CheckpointWriter(
        directory.checkpoints,
        description=description,
        retention=Retention(keep_last=steps, keep_best=1),
        on_saved=lambda _: None,
    ) as writer:
        for step in range(1, steps + 1):
            writer.submit(
                SaveRequest(
                    step=step,
                    model={"w": torch.zeros(1)},
                    optimizer={},
                    trainer={},
                    metadata={},
                    is_best=step == best,
                    required=True,
                )
            )
    return directory


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs", "alpha-1")
    make_run(tmp_path / "runs", "beta", best=None)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("address", "step"),
    [
        ("alpha-1", 2),
        ("alp", 2),
        ("alpha-1@best", 2),
        ("alpha-1@last", 3),
        ("alpha-1@1", 1),
        ("alp@3", 3),
        ("beta", 3),
        ("runs/alpha-1", 2),
        ("runs/alpha-1/", 2),
        ("runs/alpha-1@last", 3),
        ("./runs/beta", 3),
        ("runs/alpha-1/checkpoints/step-00000001", 1),
        ("runs/alpha-1/checkpoints/last", 3),
        ("runs/alpha-1/checkpoints/best", 2),
    ],
)
def test_an_address_leads_to_its_checkpoint(root: Path, address: str, step: int) -> None:
    assert locate(address, root=root).step == step


def test_a_run_comes_before_a_folder_of_the_same_name(root: Path) -> None:
    make_run(root.parent, "alpha-1", steps=1, best=1)
    assert locate("alpha-1", root=root).step == 2
    assert locate("./alpha-1", root=root).step == 1


def test_a_path_may_hold_an_at_sign(root: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "me@home", "x", steps=1)
    assert locate(f"{tmp_path}/me@home/x/checkpoints/step-00000001", root=root).step == 1
    assert locate(f"{tmp_path}/me@home/x@1", root=root).step == 1


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("gamma", RunError, "no run 'gamma'"),
        ("", UsageError, "empty"),
        ("alpha-1@7", CheckpointError, "no checkpoint of step 7"),
        ("alpha-1@newest", CheckpointError, "'newest' is not a checkpoint"),
        ("beta@best", CheckpointError, "no best checkpoint"),
        ("runs/nothing", UsageError, "no such path"),
        ("runs", UsageError, "neither a checkpoint nor a run"),
        ("runs/alpha-1/run.json", UsageError, "is a file"),
    ],
)
def test_an_address_that_leads_nowhere_says_so(
    root: Path, address: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        locate(address, root=root)


def test_an_ambiguous_beginning_lists_the_runs_and_picks_none(root: Path) -> None:
    make_run(root, "alpha-2")
    with pytest.raises(UsageError, match=r"(?s)alpha-1.*alpha-2"):
        locate("alpha", root=root)
