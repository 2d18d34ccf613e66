"""``forge runs`` on runs that were really trained: resume, clone, reproduce, compare, delete."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Reference
from forge_process import Workplace, stepping

from llmforge.rundir import RunDirectory


def asked(workplace: Workplace, *arguments: str) -> Any:
    """Return what ``forge runs`` prints as JSON."""
    return json.loads(workplace.forge_here("runs", *arguments, "--json"))


def test_a_killed_run_is_resumed_by_its_id_from_anywhere_to_the_same_bits(
    tmp_path: Path, workplace: Workplace, reference: Reference
) -> None:
    process = workplace.start()
    assert process.wait_for(lambda it: stepping(it) and len(workplace.checkpoints) > 1)
    process.kill()
    (state,) = (run["state"] for run in asked(workplace, "list"))
    assert state == "crashed"

    (tmp_path / "elsewhere").mkdir()
    own = workplace.forge("runs", "resume", "tin", "--root", str(workplace.path / "runs"))
    own.finish(expect=0)

    assert "resuming from step" in own.output
    assert workplace.result() == reference("fp32").result()
    assert workplace.record["restarts"] == 2


def test_a_resume_trains_to_where_the_run_was_to_stop(tmp_path: Path, halfway: Workplace) -> None:
    workplace = halfway.copy(tmp_path / "copy")
    before = workplace.result()

    output = workplace.forge_here("runs", "resume", "tiny")

    assert "stop_at" in output
    assert workplace.result() == before


def test_a_run_is_cloned_compared_marked_deleted_and_restored(
    tmp_path: Path, halfway: Workplace
) -> None:
    workplace = halfway.copy(tmp_path / "copy")
    workplace.forge_here(
        *("runs", "clone", "tiny", "--set", "optimizer.adamw.lr=1e-2", "--set", "train.stop_at=8")
    )
    clone = next(run["id"] for run in asked(workplace, "list") if run["id"] != "tiny")
    assert clone.startswith("tiny-")

    text = workplace.forge_here("runs", "diff", "tiny", clone)
    assert "optimizer.adamw.lr" in text
    assert "0.003" in text and "0.01" in text
    assert clone in workplace.forge_here("runs", "compare", "tiny", clone)
    where = ["--where", "optimizer.adamw.lr > 0.005"]
    assert [run["id"] for run in asked(workplace, "list", *where)] == [clone]

    workplace.forge_here("runs", "tag", clone, "+hot")
    workplace.forge_here("runs", "note", clone, "lr too high")
    workplace.forge_here("runs", "rename", clone, "too hot")
    (found,) = asked(workplace, "list", "--where", "'hot' in tags")
    assert (found["id"], found["name"], found["note"]) == (clone, "too hot", "lr too high")

    workplace.forge_here("runs", "delete", clone, "--yes")
    assert [run["id"] for run in asked(workplace, "list")] == ["tiny"]
    workplace.forge_here("runs", "restore", clone)
    assert {run["id"] for run in asked(workplace, "list")} == {"tiny", clone}
    assert RunDirectory(workplace.path / "runs" / clone).checkpoints.is_dir()


def test_a_run_is_reproduced_to_the_same_metrics_and_a_changed_one_is_not(
    tmp_path: Path, trained: Workplace
) -> None:
    again = trained.forge_here("runs", "reproduce", "tiny", "--run")
    assert "tiny-again-1" in again

    rows = trained.rows
    rows[-1]["train/loss"] += 0.5
    text = "".join(json.dumps(row) + "\n" for row in rows)
    trained.run.metrics.write_text(text, encoding="utf-8")
    output = trained.forge_here("runs", "reproduce", "tiny", "--run", expect=1)
    assert "train/loss" in output


@pytest.mark.parametrize(
    "arguments",
    [("show", "nosuch"), ("resume", "nosuch"), ("diff", "tiny", "nosuch"), ("delete", "nosuch")],
)
def test_a_run_that_is_not_there_is_named(halfway: Workplace, arguments: tuple[str, ...]) -> None:
    output = halfway.forge_here("runs", *arguments, expect=1)
    assert "no run 'nosuch'" in output
    assert str(halfway.path / "runs") in output or os.sep not in output


def test_a_run_of_two_processes_is_resumed_and_reproduced_by_two(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "place", {"train.max_steps": "6"})
    workplace.train("--nproc-per-node", "2", "--set", "train.stop_at=4")
    text = workplace.run.recipe.read_text(encoding="utf-8")
    workplace.run.recipe.write_text(text.replace("stop_at = 4\n", ""), encoding="utf-8")
    assert "of 2 ranks" in workplace.forge("runs", "resume", "tiny").finish(expect=0).output
    own = workplace.forge("runs", "reproduce", "tiny", "--run").finish(expect=0)
    assert own.output.count("packages and machine are as they were recorded") == 1
    assert own.output.count("tiny-again-1: all metrics of 4 rows are the same, bit for bit") == 1
    again = json.loads(
        RunDirectory(workplace.path / "runs" / "tiny-again-1").record.read_text(encoding="utf-8")
    )
    assert again["resolved"]["world_size"] == 2
