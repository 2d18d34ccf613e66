"""The index of runs: what it answers, which changes it notices, and how it gets out of trouble."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from run_parts import complete, make_run

from llmforge.errors import RunError, UsageError
from llmforge.insight.runs_index import RunsTable, newest_run, refresh, runs_table
from llmforge.insight.runs_index.database import database_path
from llmforge.rundir import RunDirectory, RunLock, clear_run, read_record, write_record
from llmforge.rundir.annotations import Annotations, read_annotations, write_annotations
from llmforge.rundir.changes import marks_path

RECIPE = """[run]
seed = 1
tags = []

[optimizer]
name = "adamw"

[optimizer.adamw]
lr = {lr}

[tracker]
names = [
    "csv",
]
"""


def run_with_recipe(root: Path, run_id: str, *, lr: float, **changes: Any) -> RunDirectory:
    directory = make_run(root, run_id, **changes)
    directory.recipe.write_text(RECIPE.format(lr=lr), encoding="utf-8")
    return directory


def ids(root: Path, **choice: Any) -> list[str]:
    return [row["id"] for row in runs_table(root, columns=["id"], **choice)]


def states(root: Path) -> dict[str, str]:
    return {row["id"]: row["state"] for row in runs_table(root, columns=["id", "state"])}


def edit(directory: RunDirectory, **changes: Any) -> None:
    """Change a record as a person does, past llmforge's own writer."""
    body = json.loads(directory.record.read_text()) | changes
    directory.record.write_text(json.dumps(body))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the time of a directory as certain at once, as it is two seconds after a change."""
    monkeypatch.setattr(refresh, "_SETTLED", 0)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that are read from now on."""
    read: list[str] = []
    real = refresh.Writer.refresh

    def noted(self: Any, run_id: str, folder: int | None) -> None:
        read.append(run_id)
        real(self, run_id, folder)

    monkeypatch.setattr(refresh.Writer, "refresh", noted)
    return read


# What it answers -----------------------------------------------------------------------------


def test_rows_are_plain_and_hold_metrics_and_recipe_values(tmp_path: Path) -> None:
    run_with_recipe(tmp_path, "x", lr=3e-4, tags=["a"])
    names = ["id", "val/loss", "best/val/loss", "optimizer.adamw.lr", "tracker.names", "tags"]
    assert runs_table(tmp_path, columns=names) == [
        {
            "id": "x",
            "val/loss": 3.5,
            "best/val/loss": 3.4,
            "optimizer.adamw.lr": 3e-4,
            "tracker.names": ["csv"],
            "tags": ["a"],
        }
    ]
    (row,) = runs_table(tmp_path)
    assert row["state"] == "completed"
    assert row["loss"] == 3.4
    assert row["metrics"]["train/loss"] == 3.21
    assert row["directory"] == str(tmp_path / "x")
    (row,) = runs_table(tmp_path, columns=["recipe"])
    assert row["recipe"]["run.seed"] == 1


def test_runs_are_chosen_and_sorted_by_recipe_and_metrics(tmp_path: Path) -> None:
    for run_id, lr, loss in (("a", 1e-3, 3.0), ("b", 1e-4, 2.0), ("c", 1e-2, 4.0)):
        run_with_recipe(tmp_path, run_id, lr=lr, metrics={"val/loss": loss}, started=1e9)
    make_run(tmp_path, "d", metrics={}, identity={})
    assert ids(tmp_path, sort="optimizer.adamw.lr") == ["b", "a", "c", "d"]
    assert ids(tmp_path, sort="val/loss", reverse=True) == ["c", "a", "b", "d"]
    assert ids(tmp_path, where="optimizer.adamw.lr <= 1e-3 and val/loss < 3") == ["b"]
    assert ids(tmp_path, where="not val/loss", sort="id") == ["d"]
    assert ids(tmp_path, sort="id", limit=2) == ["a", "b"]


def test_a_run_without_its_recipe_is_found_by_its_identity(tmp_path: Path) -> None:
    make_run(tmp_path, "x")
    assert ids(tmp_path, where="model.transformer.context == 16") == ["x"]


def test_a_recipe_that_tables_do_not_divide_is_read_as_a_whole(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x")
    text = 'a.b = 1\n[run]\nnotes = """\n\n[no.table]\nseed = 1\n"""\n\n[data]\nmix = {x.y = 2}\n'
    directory.recipe.write_text(text)
    (row,) = runs_table(tmp_path, columns=["recipe", "a.b", "data.mix.x.y"])
    assert row["recipe"] == {"a.b": 1, "run.notes": "\n[no.table]\nseed = 1\n", "data.mix.x.y": 2}
    assert (row["a.b"], row["data.mix.x.y"]) == (1, 2)


def test_metrics_that_are_no_numbers_go_last_and_match_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, "a", metrics={"val/loss": float("nan")}, started=1e9)
    make_run(tmp_path, "b", metrics={"val/loss": 2.0}, started=1e9)
    assert ids(tmp_path, sort="val/loss") == ["b", "a"]
    assert ids(tmp_path, where="val/loss < 9 or val/loss > 0") == ["b"]
    values = [row["val/loss"] for row in runs_table(tmp_path, columns=["val/loss"], sort="id")]
    assert values[0] != values[0]


def test_names_that_are_no_text_are_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    try:
        make_run(tmp_path, name)
    except OSError:
        pytest.skip("this file system takes only names that are text")
    assert ids(tmp_path) == [name]


def test_an_unknown_column_is_refused_with_the_nearest(tmp_path: Path) -> None:
    make_run(tmp_path, "x")
    with pytest.raises(UsageError, match="no run has 'val/lost'") as caught:
        runs_table(tmp_path, columns=["val/lost"])
    assert "'val/loss'" in caught.value.remedy


def test_the_newest_run_is_the_one_started_last(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no runs"):
        newest_run(tmp_path)
    make_run(tmp_path, "a", started=2000.0)
    make_run(tmp_path, "b", started=1000.0)
    make_run(tmp_path, "c").record.write_text("{")
    lost = make_run(tmp_path, "d", started=3000.0)
    complete(lost, started=3000.0)
    shutil.rmtree(lost.path)
    assert newest_run(tmp_path).id == "a"


# Which changes it notices --------------------------------------------------------------------


@pytest.mark.usefixtures("settled")
def test_a_look_reads_only_runs_that_changed(
    tmp_path: Path, unread: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "CHECKED", 0)  # as for a run far back in the turn
    runs = [make_run(tmp_path, name) for name in ("a", "b", "c")]
    assert len(ids(tmp_path)) == 3
    unread.clear()
    ids(tmp_path)
    assert unread == []
    record = read_record(runs[1])
    record.step = 7
    write_record(runs[1], record)
    assert runs_table(tmp_path, where="step == 7", columns=["id"]) == [{"id": "b"}]
    assert unread == ["b"]
    assert not list(marks_path(tmp_path).iterdir())


@pytest.mark.usefixtures("settled")
def test_runs_that_come_go_and_are_replaced_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "CHECKED", 0)
    root, other = tmp_path / "runs", tmp_path / "other"
    make_run(root, "a")
    make_run(root, "b", state="failed")
    assert states(root) == {"a": "completed", "b": "failed"}
    shutil.copytree(make_run(other, "c", state="interrupted").path, root / "c")
    shutil.rmtree(root / "a")
    assert states(root) == {"b": "failed", "c": "interrupted"}
    (root / "b").rename(tmp_path / "kept")
    make_run(other, "b").path.rename(root / "b")
    assert states(root)["b"] == "completed"
    shutil.rmtree(root / "b")
    (tmp_path / "kept").rename(root / "b")
    assert states(root)["b"] == "failed"
    clear_run(root, "b")
    assert states(root) == {"c": "interrupted"}
    assert [row["id"] for row in runs_table(root, archived=True)] == ["b.attempt-1"]


def test_a_record_changed_by_hand_is_noticed(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x")
    assert ids(tmp_path, where="step == 600") == ["x"]
    edit(directory, step=12)
    assert ids(tmp_path, where="step == 12") == ["x"]


def test_among_very_many_runs_those_changed_by_hand_take_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "CHECKED", 2)
    runs = [make_run(tmp_path, f"run-{number}") for number in range(5)]
    ids(tmp_path)
    for directory in runs:
        edit(directory, step=1)
    looks = [len(ids(tmp_path, where="step == 1")) for _ in range(4)]
    assert looks[:2] == [2, 4]
    assert looks[-1] == 5
    edit(runs[0], step=2)
    edit(runs[4], step=2)
    with RunsTable(tmp_path, thorough=True) as table:
        assert len(table.select(where="step == 2")) == 2


def test_a_run_whose_process_is_gone_reads_as_crashed_without_a_write(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x", state="running", ended=None)
    with RunLock(tmp_path, "x"):
        assert states(tmp_path) == {"x": "running"}
    assert states(tmp_path) == {"x": "crashed"}
    record = read_record(directory)
    record.state = "completed"
    write_record(directory, record, durable=False)
    assert states(tmp_path) == {"x": "completed"}


def test_a_folder_becomes_a_run_when_it_has_a_record(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    assert ids(tmp_path) == []
    complete(RunDirectory(tmp_path / "y"))
    made = make_run(tmp_path / "elsewhere", "x")
    shutil.copy(made.record, tmp_path / "x")
    assert ids(tmp_path, sort="id") == ["x", "y"]


def test_a_completion_without_a_directory_is_a_run_until_it_is_withdrawn(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x")
    complete(directory, state="early-stopped")
    shutil.rmtree(directory.path)
    assert states(tmp_path) == {"x": "early-stopped"}
    (tmp_path / ".completed" / "x.json").unlink()
    assert states(tmp_path) == {}


@pytest.mark.usefixtures("settled")
def test_completions_are_listed_only_when_one_came_or_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "CHECKED", 0)
    listed: list[Path] = []
    real = refresh._completed_ids
    monkeypatch.setattr(refresh, "_completed_ids", lambda root: listed.append(root) or real(root))
    directory = make_run(tmp_path, "x")
    complete(directory)
    complete(make_run(tmp_path, "y"))
    shutil.rmtree(directory.path)
    assert states(tmp_path) == {"x": "completed", "y": "completed"}
    listed.clear()
    make_run(tmp_path, "z", state="failed")
    shutil.rmtree(tmp_path / "y")
    assert states(tmp_path) == {"x": "completed", "y": "completed", "z": "failed"}
    with RunsTable(tmp_path) as table:
        (row,) = table.rows(table.select(where="id == 'y'"), ["directory_gone"])
    assert row["directory_gone"]
    assert not listed
    (tmp_path / ".completed" / "x.json").unlink()
    shutil.rmtree(tmp_path / "z")
    assert states(tmp_path) == {"y": "completed"}
    assert listed


def test_tags_notes_and_names_given_later_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "CHECKED", 0)
    directory = make_run(tmp_path, "x", tags=["base", "old"], name="first")
    assert ids(tmp_path, tags=["old"]) == ["x"]
    said = read_annotations(directory).tagged(["base", "old"], add=["new"], remove=["old"])
    assert said == Annotations(added=["new"], removed=["old"])
    write_annotations(directory, Annotations(**{**vars(said), "name": "second", "note": "good"}))
    (row,) = runs_table(tmp_path, columns=["tags", "name", "note"])
    assert row == {"tags": ["base", "new"], "name": "second", "note": "good"}


# Getting out of trouble ----------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 999, None])
def test_a_damaged_index_is_built_again(tmp_path: Path, damage: bytes | None) -> None:
    make_run(tmp_path, "x")
    assert ids(tmp_path) == ["x"]
    path = database_path(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * 20_000 if damage is None else damage)
    assert ids(tmp_path) == ["x"]
    assert ids(tmp_path, where="step == 600") == ["x"]


def test_an_index_of_another_version_is_built_again(tmp_path: Path) -> None:
    make_run(tmp_path, "x")
    ids(tmp_path)
    with sqlite3.connect(database_path(tmp_path)) as connection:
        connection.execute("DROP TABLE runs")
        connection.execute("CREATE TABLE runs (other TEXT)")
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert ids(tmp_path) == ["x"]


def test_without_a_place_for_the_index_the_files_are_read(tmp_path: Path) -> None:
    make_run(tmp_path, "x")
    (tmp_path / ".index").rmdir() if (tmp_path / ".index").exists() else None
    (tmp_path / ".index").write_text("in the way")
    assert ids(tmp_path) == ["x"]


@pytest.mark.usefixtures("settled")
def test_an_index_that_another_process_holds_is_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmforge.insight.runs_index.database._PATIENCE_SECONDS", 0.05)
    make_run(tmp_path, "x")
    ids(tmp_path)
    holder = sqlite3.connect(database_path(tmp_path), isolation_level=None)
    for lock in ("IMMEDIATE", "EXCLUSIVE"):
        holder.execute(f"BEGIN {lock}")
        make_run(tmp_path, f"y-{lock}")
        assert f"y-{lock}" in ids(tmp_path)
        holder.execute("ROLLBACK")
    holder.close()
    assert ids(tmp_path, sort="id") == ["x", "y-EXCLUSIVE", "y-IMMEDIATE"]


def test_several_processes_at_once_see_every_run(tmp_path: Path) -> None:
    for number in range(40):
        make_run(tmp_path, f"run-{number:02}")
    code = (
        "import sys, pathlib\n"
        "from llmforge.insight.runs_index import runs_table\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "for _ in range(5):\n"
        "    assert len(runs_table(root, where='step >= 0')) >= 40\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for number in range(40, 50):
        make_run(tmp_path, f"run-{number:02}")
        time.sleep(0.02)
    assert [process.communicate()[1] for process in processes] == [b""] * 3
    assert len(ids(tmp_path)) == 50


def test_the_table_needs_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path, "x")
    code = (
        "import sys, pathlib\n"
        "from llmforge.insight.runs_index import runs_table\n"
        "print(len(runs_table(pathlib.Path(sys.argv[1]))))\n"
        "assert not {'torch', 'numpy', 'pydantic'} & sys.modules.keys()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
