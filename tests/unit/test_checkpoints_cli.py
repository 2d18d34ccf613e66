"""``forge checkpoints``: what a run has saved, and what of it shall stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoint_slices import slice_up
from generate_parts import make_trained_run
from typer.testing import CliRunner, Result

from llmforge.checkpoint import Retention
from llmforge.checkpoint.retention import apply_retention
from llmforge.cli.checkpoints import app
from llmforge.errors import CheckpointError
from llmforge.rundir import RunDirectory


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setenv("FORGE_RUN_ROOT", str(tmp_path / "runs"))
    return make_trained_run(tmp_path / "runs", "run-1", steps=3)


def forge(*arguments: str) -> Result:
    """Run the command, raising its error."""
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def listed(*arguments: str) -> dict[int, dict[str, object]]:
    return {row["step"]: row for row in json.loads(forge("list", *arguments, "--json").stdout)}


def test_the_list_marks_best_and_last_and_what_is_damaged(run: RunDirectory) -> None:
    (run.checkpoints / "step-00000002" / "manifest.json").write_text("{")
    rows = listed("run")
    assert [step for step, row in rows.items() if row["is_best"]] == [1]
    assert [step for step, row in rows.items() if row["is_last"]] == [3]
    assert "not a manifest" in str(rows[2]["problem"])
    text = forge("list", "run").stdout
    assert [line.split()[0] for line in text.splitlines()] == ["step", "1", "2", "3"]


def test_only_verify_reads_the_files(run: RunDirectory) -> None:
    weights = run.checkpoints / "step-00000003" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert listed("run")[3]["problem"] == ""
    assert "was altered" in str(listed("run", "--verify")[3]["problem"])


def test_a_checkpoint_in_slices_is_listed_and_every_slice_verified(run: RunDirectory) -> None:
    whole = listed("run")[3]["size"]
    path = run.checkpoints / "step-00000003"
    slice_up(path, 2)
    row = listed("run", "--verify")[3]
    assert row["problem"] == ""
    assert row["size"] > whole  # type: ignore[operator]
    slice_file = path / "model-00002-of-00002.safetensors"
    content = bytearray(slice_file.read_bytes())
    content[-1] ^= 1
    slice_file.write_bytes(content)
    assert "model-00002-of-00002.safetensors was altered" in str(
        listed("run", "--verify")[3]["problem"]
    )


def test_a_pinned_checkpoint_stays_until_it_is_unpinned(run: RunDirectory) -> None:
    one = Retention(keep_last=1, keep_best=1)
    assert "stays" in forge("pin", "run@2").stdout
    assert listed("run")[2]["is_pinned"]
    assert apply_retention(run.checkpoints, retention=one) == []
    forge("unpin", "run@2")
    assert apply_retention(run.checkpoints, retention=one) == [2]


def test_a_run_without_checkpoints_says_so(run: RunDirectory) -> None:
    for path in run.checkpoints.iterdir():
        path.rename(run.path / path.name)
    assert forge("list", "run").stdout == "run-1 has no checkpoint yet\n"


def test_checkpoints_that_may_not_be_read_are_named(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CheckpointError, match=r"checkpoints cannot be read: Permission denied"):
        forge("list", "run")


def test_show_takes_the_newest_run_and_says_which(run: RunDirectory) -> None:
    result = forge("show")
    assert result.stdout == forge("show", "run-1").stdout
    assert "no run was named: taking the newest, run-1" in result.stderr
    assert forge("show", "--json").stdout == forge("show", "run-1", "--json").stdout
