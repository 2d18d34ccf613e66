"""Watching runs: what a follower reads of growing files, and how snapshots are laid out."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from run_parts import make_run, training_rows, write_rows

from llmforge.cli.monitor_view import MonitorView, status_line
from llmforge.courier import JournalWriter
from llmforge.courier.cursor import Cursor, tracker_cursor
from llmforge.events import MetricsLogged
from llmforge.monitor import Curve, RunFollower, Snapshot, Watchlist
from llmforge.monitor.appended_lines import AppendedLines, CountedLines, last_lines
from llmforge.monitor.metrics import Metrics
from llmforge.monitor.stored import StoredRuns
from llmforge.remote import RemoteRun
from llmforge.rundir import RunDirectory, RunLock, read_record, write_record
from llmforge.rundir.record import boot_id
from llmforge.rundir.uploads import UploadRecord, write_upload


def read(lines: AppendedLines) -> list[bytes]:
    lines.look()
    return list(lines.lines())


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def row(step: int, **values: float) -> str:
    return json.dumps({"step": step, **values}) + "\n"


def running(root: Path, run_id: str = "one", **changes: Any) -> RunDirectory:
    now = time.time()
    fields: Mapping[str, Any] = {
        "state": "running",
        "exit_reason": "",
        "started": now - 90,
        "ended": None,
        "step": 40,
        "total_steps": 200,
        "heartbeat": {"time": now, "host": socket.gethostname(), "boot_id": boot_id(), "pid": 4242},
    }
    return make_run(root, run_id, **(dict(fields) | changes))


# Reading what is new ------------------------------------------------------------------------------


def test_a_line_is_read_once_and_only_when_it_is_complete(tmp_path: Path) -> None:
    lines = AppendedLines(tmp_path / "rows")
    assert read(lines) == []
    append(lines.path, "one\ntw")
    assert read(lines) == [b"one\n"]
    assert read(lines) == []
    append(lines.path, "o\nthree\n")
    assert read(lines) == [b"two\n", b"three\n"]


def test_a_file_that_was_cut_is_read_again_from_the_top(tmp_path: Path) -> None:
    lines = AppendedLines(tmp_path / "rows")
    append(lines.path, "one\ntwo\n")
    read(lines)
    lines.path.write_text("one\n")
    assert lines.look()
    assert list(lines.lines()) == [b"one\n"]


def test_a_file_that_was_cut_and_has_grown_past_the_position_is_noticed(tmp_path: Path) -> None:
    lines = AppendedLines(tmp_path / "rows")
    append(lines.path, "one\ntwo\n")
    read(lines)
    with lines.path.open("r+") as file:
        file.truncate(4)
    append(lines.path, "new\nmore\n")
    assert lines.look()
    assert list(lines.lines()) == [b"one\n", b"new\n", b"more\n"]


def test_only_the_last_lines_are_read_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("".join(f"line {number} {'x' * 90}\n" for number in range(5000)) + "half")
    assert [line.split()[1] for line in last_lines(path, 2)] == ["4998", "4999"]
    followed = AppendedLines(path, last=2)
    assert [line.split()[1] for line in read(followed)] == [b"4998", b"4999"]
    append(path, " is whole\n")
    assert read(followed) == [b"half is whole\n"]


def test_waiting_lines_are_counted_while_both_ends_move(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"12345\n" * 4)
    counted = CountedLines(path)
    assert counted.behind(0) == 4
    path.write_bytes(b"12345\n" * 6)
    assert counted.behind(12) == 4
    assert counted.behind(36) == 0
    assert counted.behind(6) == 5


# Curves -------------------------------------------------------------------------------------------


def test_a_curve_keeps_means_over_equal_steps() -> None:
    curve = Curve(most=10)
    for step in range(1, 65):
        curve.add(step, float(step))
    steps, values = curve.points()
    assert len(curve) <= 10
    assert list(steps) == list(values)
    assert steps[0] == pytest.approx(4)  # steps 1 to 7
    assert {round(after - before) for before, after in pairwise(steps[1:-1])} == {8}


def test_values_that_are_no_numbers_are_left_out_of_a_curve() -> None:
    curve = Curve()
    curve.add(1, float("nan"))
    curve.add(2, 1.0)
    assert curve.points() == ((2,), (1.0,))


def test_a_resume_cuts_the_curve_back(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    path = tmp_path / "metrics.jsonl"
    append(path, "".join(row(step, **{"train/loss": 2.0}) for step in (1, 2, 3)))
    metrics.look()
    assert metrics.curves["train/loss"].points()[0] == (1, 2, 3)
    path.write_text(row(1, **{"train/loss": 2.0}))
    metrics.look()
    assert metrics.curves["train/loss"].points()[0] == (1,)
    assert metrics.values["step"] == 1


def test_a_damaged_row_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, row(1, **{"train/loss": 2.0}) + "{nothing\n" + row(2, **{"train/loss": 1.0}))
    metrics = Metrics(path)
    metrics.look()
    assert metrics.curves["train/loss"].points()[0] == (1, 2)


def test_of_a_long_file_every_evaluation_and_the_last_row_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [row(step, **{"train/loss": 3.0, "lr": step}) for step in range(20_000)]
    rows[777] = row(777, **{"train/loss": 3.0, "val/loss": 4.0})
    path.write_text("".join(rows))
    metrics = Metrics(path)
    metrics.look()
    assert metrics.curves["val/loss"].points() == ((777,), (4.0,))
    assert metrics.values["lr"] == 19_999
    assert 500 <= len(metrics.curves["train/loss"]) <= 1500


# A run --------------------------------------------------------------------------------------------


def test_a_snapshot_has_what_the_files_say(tmp_path: Path) -> None:
    directory = running(tmp_path)
    now = time.time()
    append(directory.metrics, row(40, **{"train/loss": 2.5, "lr": 1e-3, "epoch": 0.5}))
    speed = {"tokens_per_second": 1234.0, "eta_seconds": 60.0, "data_share": 0.02}
    append(directory.timing, row(44, time=now + 1, **speed))
    append(directory.system, row(40, time=now, **{"system/process_memory_gb": 1.5}))
    (directory.path / "log.txt").write_text("first\nsecond\n")
    directory.recipe.write_text('[tracker]\nnames = ["csv"]\n')
    journal = JournalWriter(directory.journal)
    for step in (1, 2, 3):
        journal.append(MetricsLogged(step=step, values={"a": 1.0}, time=now))
    write_upload(directory, UploadRecord(step=40, state="uploading", sent=10, size=100))
    with RunLock(tmp_path, "one"):
        found = RunFollower(directory).look()
    assert (found.state, found.step, found.train_loss) == ("running", 44, 2.5)
    assert found.tokens_per_second == 1234
    assert found.eta_seconds is not None
    assert 59 <= found.eta_seconds <= 61.5
    assert found.process_memory_gb == 1.5
    assert found.pending == {"csv": 3}
    assert found.uploads[0].sent == 10
    assert found.log == ("first", "second")
    body = json.loads(json.dumps(found.as_json()))
    assert body["curves"]["train/loss"] == {"step": [40.0], "value": [2.5]}
    assert body["started"].startswith("20")


def test_pending_events_are_those_after_the_cursor(tmp_path: Path) -> None:
    directory = running(tmp_path)
    directory.recipe.write_text('[tracker]\nnames = ["csv"]\n')
    journal = JournalWriter(directory.journal)
    journal.append(MetricsLogged(step=1, values={"a": 1.0}, time=0))
    follower = RunFollower(directory)
    assert follower.look().pending == {"csv": 1}
    cursor = Cursor(tracker_cursor(directory, "csv"))
    cursor.offset = directory.journal.stat().st_size
    cursor.save()
    assert follower.look().pending == {}


def test_values_of_an_earlier_start_are_not_shown_as_current(tmp_path: Path) -> None:
    directory = running(tmp_path)
    append(directory.timing, row(4, time=time.time() - 500, eta_seconds=60.0, tokens_per_second=9))
    with RunLock(tmp_path, "one"):
        found = RunFollower(directory).look()
    assert found.eta_seconds is None
    assert found.tokens_per_second is None


def test_a_run_that_dies_and_is_resumed_is_seen_to_do_so(tmp_path: Path) -> None:
    directory = running(tmp_path)
    follower = RunFollower(directory)
    with RunLock(tmp_path, "one"):
        assert follower.look().state == "running"
    assert follower.look().state == "crashed"
    record = read_record(directory)
    record.restarts += 1
    write_record(directory, record)
    with RunLock(tmp_path, "one"):
        found = follower.look()
        found = follower.look()
    texts = [item.text for item in found.happenings]
    assert texts == ["crashed at step 40", "resumed (start 2)"]


# Which runs ---------------------------------------------------------------------------------------


def test_without_names_all_that_run_are_watched(tmp_path: Path) -> None:
    make_run(tmp_path, "done")
    running(tmp_path, "one")
    running(tmp_path, "two")
    with RunLock(tmp_path, "one"), RunLock(tmp_path, "two"):
        assert [run.id for run in Watchlist(tmp_path).look()] == ["one", "two"]


def test_when_nothing_runs_the_newest_is_watched(tmp_path: Path) -> None:
    make_run(tmp_path, "new")
    make_run(tmp_path, "old", started=1000.0)
    assert [run.id for run in Watchlist(tmp_path).look()] == ["new"]


def test_a_run_may_be_named_by_its_path(tmp_path: Path) -> None:
    path = make_run(tmp_path, "one").path
    assert [run.id for run in Watchlist(tmp_path, [str(path), "one"]).look()] == ["one"]


def test_a_run_may_appear_after_the_watching_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmforge.monitor.watchlist._SEARCH_SECONDS", 0.0)
    watched = Watchlist(tmp_path / "runs", ["later"])
    assert [run.state for run in watched.look()] == ["waiting"]
    make_run(tmp_path / "runs", "later-1")
    assert [(run.id, run.state) for run in watched.look()] == [("later-1", "completed")]


@pytest.fixture
def store(tmp_path: Path) -> RemoteRun:
    """A run in storage that has mirrored its small files once."""
    remote = RemoteRun(f"file://{tmp_path}/store", None, "far", 1)
    remote.begin()
    send(remote, running(tmp_path / "there", "far"), steps=(4, 8))
    return remote


def send(remote: RemoteRun, directory: RunDirectory, *, steps: Sequence[int]) -> None:
    rows = [{"step": step, "train/loss": 3.0, "lr": 1e-3} for step in steps]
    write_rows(directory.metrics, rows)
    log = directory.path / "log.txt"
    log.write_text("".join(f"step {step}\n" for step in steps))
    record = read_record(directory)
    record.step = steps[-1]
    write_record(directory, record)
    names = ("run.json", "metrics.jsonl", "log.txt")
    remote.mirror({name: directory.path / name for name in names})


def test_a_run_in_storage_is_watched_as_far_as_the_storage_has_it(
    store: RemoteRun, tmp_path: Path
) -> None:
    with StoredRuns(f"file://{tmp_path}/store") as watched:
        (run,) = watched.look()
        assert (run.id, run.state, run.step, run.train_loss) == ("far", "running", 8, 3.0)
        assert run.log == ("step 4", "step 8")
        send(store, RunDirectory(tmp_path / "there" / "far"), steps=(4, 8, 12))
        (run,) = watched.look()
        assert run.step == 12
        assert run.curves["train/loss"][0] == (4, 8, 12)


def test_a_run_in_storage_that_sends_nothing_any_more_is_not_running(
    store: RemoteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmforge.monitor.stored.STALE_SECONDS", 0.0)
    with StoredRuns(f"file://{tmp_path}/store", ["far"]) as watched:
        (run,) = watched.look()
    assert run.state == "crashed"
    assert run.next_command == f"forge runs pull far --storage file://{tmp_path}/store"


def test_watching_imports_no_torch() -> None:
    script = (
        "import sys, llmforge.cli.monitor, llmforge.cli.monitor_view, llmforge.monitor.stored\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


# How it looks -------------------------------------------------------------------------------------


def a_console(width: int, *, terminal: bool = True, **settings: Any) -> Console:
    return Console(
        width=width,
        height=24,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        legacy_windows=False,
        **settings,
    )


def trained(tmp_path: Path, run_id: str = "single_bs16_cw128_lr2e-03-fedb11") -> Snapshot:
    directory = make_run(tmp_path, run_id)
    write_rows(directory.metrics, training_rows())
    (directory.path / "log.txt").write_text("2026-11-30 04:13:44,993 INFO step 20/40\n" * 20)
    return RunFollower(directory).look()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("height", [10, 24, 50])
@pytest.mark.parametrize("runs", [1, 2, 30])
def test_a_view_fits_its_terminal(tmp_path: Path, width: int, height: int, runs: int) -> None:
    snapshots = [trained(tmp_path, f"run-{number}") for number in range(runs)]
    view = MonitorView(a_console(width), height=lambda: height)
    lines = view.lines(snapshots, footer="q: quit")
    assert len(lines) == height
    assert max(len(line) for line in lines) <= width
    text = "\n".join(line.plain for line in lines)
    assert "run-0" in text
    assert text.endswith("q: quit")


def test_a_view_shows_the_curves_the_values_and_the_log(tmp_path: Path) -> None:
    view = MonitorView(a_console(80, terminal=False), height=lambda: None)
    text = "\n".join(line.plain for line in view.lines([trained(tmp_path)]))
    assert "× val/loss" in text
    assert "step 600 of 600" in text
    assert "best       val/loss 3.4000, step 500" in text
    assert "04:13:44 step 20/40" in text
    assert "next: forge generate single_bs16" in text


def test_several_runs_have_their_curves_in_one_picture(tmp_path: Path) -> None:
    snapshots = [trained(tmp_path, name) for name in ("left", "right")]
    view = MonitorView(a_console(100), height=lambda: 40)
    text = "\n".join(line.plain for line in view.lines(snapshots))
    assert "⠤⠤ left" in text
    assert "⠤⠤ right" in text


def test_a_run_on_one_line_says_how_it_stands(tmp_path: Path) -> None:
    line = status_line(trained(tmp_path))
    assert "completed" in line
    assert "step 600 of 600" in line
    assert "loss" in line
