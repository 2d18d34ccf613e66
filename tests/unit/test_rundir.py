"""The run directory: records, states, completion, the lock, finding and clearing runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from run_parts import complete, make_run, write_rows

from llmforge.errors import RunError, RunLockedError, UsageError
from llmforge.rundir import (
    Recorder,
    RunDirectory,
    RunLock,
    RunRecord,
    clear_run,
    completion_of,
    current_state,
    entry_of,
    find_run,
    is_locked,
    list_runs,
    next_attempt,
    read_completion,
    read_record,
    write_record,
)
from llmforge.rundir.atomic import write_bytes, write_json, write_remedy, write_text
from llmforge.rundir.last_row import last_row
from llmforge.rundir.layout import completion_path, lock_path

HOLDER = """
import sys, time
from pathlib import Path
from llmforge.rundir import RunLock
with RunLock(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(root: Path, run_id: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root), run_id], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


# Files ---------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_content_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    with pytest.raises(TypeError):
        write_bytes(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["run.json"]


def test_json_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": list(range(1000))})
    write_json(path, {"a": 1})
    assert path.read_text() == '{\n "a": 1\n}\n'


# Records -------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    record = RunRecord("x", step=7, tags=["a"], metrics={"val/loss": 1.5}, resolved={"a": [1]})
    write_record(directory, record)
    assert read_record(directory) == record


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"run_id": "x", "format_version": 1, "unheard": 1})
    assert read_record(RunDirectory(tmp_path)).run_id == "x"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "no record"),
        ("{}", "no record"),
        ('{"run_id": "x", "format_version": 99}', "newer than this llmforge"),
    ],
)
def test_a_record_that_is_none_is_refused_with_its_path(
    tmp_path: Path, content: str, says: str
) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=says) as caught:
        read_record(RunDirectory(tmp_path))
    assert "run.json" in str(caught.value)


def test_the_heartbeat_moves_on_while_the_steps_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmforge.rundir.record.HEARTBEAT_SECONDS", 0.01)
    directory = RunDirectory(tmp_path)
    recorder = Recorder(directory, RunRecord("x"))
    recorder.start()
    first = read_record(directory).heartbeat["time"]
    recorder.step = 5
    deadline = time.monotonic() + 10
    while read_record(directory).step != 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    recorder.stop()
    after = read_record(directory)
    assert after.step == 5
    assert after.heartbeat["time"] > first
    assert after.heartbeat["pid"] == os.getpid()


def test_a_notice_is_kept_once(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    recorder = Recorder(directory, RunRecord("x"))
    recorder.notice("sample used")
    recorder.notice("sample used")
    assert read_record(directory).notices == ["sample used"]


# States --------------------------------------------------------------------------------------


def test_a_running_run_is_running_while_its_process_holds_the_lock(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x", state="running")
    record = read_record(directory)
    assert current_state(directory, record) == "crashed"
    process = hold(tmp_path, "x")
    try:
        assert current_state(directory, record) == "running"
    finally:
        process.kill()
        process.wait()
    assert current_state(directory, record) == "crashed"


def test_after_a_reboot_a_running_run_is_crashed(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x", state="running")
    record = read_record(directory)
    record.heartbeat["boot_id"] = "another boot"
    with RunLock(tmp_path, "x"):
        assert current_state(directory, record) == "crashed"


@pytest.mark.parametrize(("age", "state"), [(5.0, "running"), (600.0, "crashed")])
def test_on_another_host_the_heartbeat_decides(tmp_path: Path, age: float, state: str) -> None:
    beat = {"time": time.time() - age, "host": "elsewhere", "boot_id": "1", "pid": 1}
    directory = make_run(tmp_path, "x", state="running", heartbeat=beat)
    assert current_state(directory, read_record(directory)) == state


# The lock ------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_trains_the_run(tmp_path: Path) -> None:
    process = hold(tmp_path, "x")
    try:
        with (
            pytest.raises(RunLockedError, match=f"process {process.pid}") as caught,
            RunLock(tmp_path, "x"),
        ):
            pass
        assert caught.value.exit_code == 3
        with RunLock(tmp_path, "y"):
            assert is_locked(tmp_path, "y")
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = hold(tmp_path, "x")
    process.kill()
    process.wait()
    assert not is_locked(tmp_path, "x")
    with RunLock(tmp_path, "x"):
        assert is_locked(tmp_path, "x")
    assert not is_locked(tmp_path, "x")


def test_looking_at_a_run_does_not_stop_it_from_starting(tmp_path: Path) -> None:
    with RunLock(tmp_path, "x"):
        pass
    looking = lock_path(tmp_path, "x").open()
    fcntl.flock(looking, fcntl.LOCK_SH)  # as is_locked does, for a moment
    threading.Timer(0.03, looking.close).start()
    with RunLock(tmp_path, "x"):
        assert looking.closed


def test_a_place_that_cannot_hold_runs_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/\.locks/x\.lock cannot be written.*\n.*run\.root"):
        RunLock(tmp_path / "file", "x").__enter__()


def test_what_is_completed_is_nothing_where_no_runs_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_completion(tmp_path / "file", "x") is None


def test_a_completion_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / ".completed" / "x.json").mkdir(parents=True)
    with pytest.raises(RunError, match=r"x\.json cannot be read: Is a directory"):
        read_completion(tmp_path, "x")


def test_a_run_that_cannot_be_moved_aside_is_named_and_stays(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x")
    (tmp_path / ".archive").touch()
    with pytest.raises(RunError, match=r"run x cannot be moved to .*x\.attempt-1"):
        clear_run(tmp_path, "x")
    assert directory.record.exists()


# Finding -------------------------------------------------------------------------------------


def test_runs_are_listed_in_order_with_what_is_wrong_with_them(tmp_path: Path) -> None:
    make_run(tmp_path, "b")
    make_run(tmp_path, "a")
    make_run(tmp_path, "c").record.write_text("{")
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").touch()
    entries = list_runs(tmp_path)
    assert [(entry.directory.id, entry.state) for entry in entries] == [
        ("a", "completed"),
        ("b", "completed"),
        ("c", "unreadable"),
    ]
    assert "cannot be read" in entries[2].problem


def test_a_root_that_is_not_there_has_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    assert list_runs(tmp_path / "none", archived=True) == []


def test_a_completed_run_is_remembered_without_its_directory(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "b")
    complete(directory, reason="stopped early: val/loss", state="early-stopped")
    make_run(tmp_path, "c")
    shutil.rmtree(directory.path)
    entry = list_runs(tmp_path)[0]
    assert (entry.directory.id, entry.gone, entry.state) == ("b", True, "early-stopped")
    assert entry.record.metrics["best"] == {"metric": "val/loss", "value": 3.4, "step": 500}
    assert find_run(tmp_path, "b", gone=True).id == "b"
    with pytest.raises(RunError, match=r"directory .* is gone"):
        find_run(tmp_path, "b")


def test_a_damaged_completion_is_listed_and_says_how_to_go_on(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x")
    complete(directory)
    (tmp_path / ".completed" / "x.json").write_text('{"run_id": "x"}')
    shutil.rmtree(directory.path)
    with pytest.raises(RunError, match="forge runs clear x"):
        read_completion(tmp_path, "x")
    assert list_runs(tmp_path)[0].state == "unreadable"
    assert clear_run(tmp_path, "x") is not None
    assert list_runs(tmp_path) == []


def test_a_run_is_found_by_a_unique_beginning(tmp_path: Path) -> None:
    make_run(tmp_path, "single_bs4_cw16_lr1e-03-aaaaaa")
    make_run(tmp_path, "single_bs8_cw16_lr1e-03-bbbbbb")
    found = find_run(tmp_path, "single_bs4_cw16_lr1e-03")
    assert found.id == "single_bs4_cw16_lr1e-03-aaaaaa"


def test_a_whole_id_wins_over_longer_ones(tmp_path: Path) -> None:
    make_run(tmp_path, "run")
    make_run(tmp_path, "run-2")
    assert find_run(tmp_path, "run").id == "run"


def test_an_ambiguous_beginning_lists_the_matches_and_their_differing_keys(tmp_path: Path) -> None:
    for run_id, lr in (("single_a", 1e-3), ("single_b", 3e-4)):
        keys = {"optimizer.adamw.lr": lr, "train.batch_size": 4}
        make_run(tmp_path, run_id, identity={"hash": "0", "keys": keys}, started=1_700_000_000.0)
    with pytest.raises(UsageError) as caught:
        find_run(tmp_path, "single")
    message = caught.value.message
    assert "matches 2 runs" in message
    assert "optimizer.adamw.lr=0.0003" in message
    assert "2023-11-1" in message
    assert "batch_size" not in message


def test_an_unknown_run_suggests_the_nearest(tmp_path: Path) -> None:
    make_run(tmp_path, "wikitext")
    with pytest.raises(RunError) as caught:
        find_run(tmp_path, "wikitxt")
    assert caught.value.remedy == "did you mean 'wikitext'?"


# Clearing ------------------------------------------------------------------------------------


def test_clearing_keeps_everything_aside_and_begins_the_next_attempt(tmp_path: Path) -> None:
    for attempt in (1, 2):
        directory = make_run(tmp_path, "x", attempt=attempt)
        completion = complete(directory, attempt=attempt)
        assert next_attempt(tmp_path, "x") == attempt
        aside = clear_run(tmp_path, "x")
        assert aside == tmp_path / ".archive" / f"x.attempt-{attempt}"
        assert completion_of(RunDirectory(aside)) == completion
    assert next_attempt(tmp_path, "x") == 3
    assert list_runs(tmp_path) == []
    assert read_completion(tmp_path, "x") is None
    archived = list_runs(tmp_path, archived=True)
    assert [entry.record.attempt for entry in archived] == [1, 2]
    assert find_run(tmp_path, "x.attempt-2").path == archived[1].directory.path


def test_clearing_a_run_without_a_directory_keeps_its_completion(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x")
    complete(directory)
    shutil.rmtree(directory.path)
    aside = clear_run(tmp_path, "x")
    assert aside is not None
    assert (aside / "completion.json").exists()
    entry = entry_of(RunDirectory(aside))
    assert (entry.state, entry.gone) == ("completed", True)


def test_clearing_nothing_does_nothing(tmp_path: Path) -> None:
    assert clear_run(tmp_path, "x") is None
    assert not (tmp_path / ".archive").exists()


def test_a_run_being_trained_is_not_cleared(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x", state="running")
    with RunLock(tmp_path, "x"), pytest.raises(RunLockedError):
        clear_run(tmp_path, "x")
    assert directory.record.exists()


def test_a_beginning_of_a_run_and_of_one_that_is_gone_is_of_both(tmp_path: Path) -> None:
    lost = make_run(tmp_path, "b-1")
    complete(lost)
    make_run(tmp_path, "b-2")
    shutil.rmtree(lost.path)
    assert find_run(tmp_path, "b").id == "b-2"
    with pytest.raises(UsageError, match="'b' matches 2 runs"):  # as it may be to be deleted
        find_run(tmp_path, "b", gone=True)


def test_an_unreadable_run_among_several_that_are_meant_has_no_facts(tmp_path: Path) -> None:
    make_run(tmp_path, "x-1", identity={"hash": "a", "keys": {"lr": 1.0}})
    make_run(tmp_path, "x-2", identity={"hash": "b", "keys": {"lr": 2.0}})
    make_run(tmp_path, "x-3").record.write_text("{")
    with pytest.raises(UsageError) as caught:
        find_run(tmp_path, "x")
    first, second, third = caught.value.message.splitlines()[1:]
    assert (first.split()[-1], second.split()[-1]) == ("lr=1.0", "lr=2.0")
    assert third.split() == ["x-3", "unreadable"]


def test_a_completed_run_without_its_record_is_not_called_gone(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x")
    complete(directory)
    directory.record.unlink()
    with pytest.raises(RunError, match=r"its directory .*x holds no run\.json"):
        find_run(tmp_path, "x")


def test_a_killed_run_is_as_far_as_its_rows_and_not_as_its_last_heartbeat(tmp_path: Path) -> None:
    metrics = {"step": 40, "train/loss": 3.0, "best": {"metric": "val/loss", "value": 1.0}}
    directory = make_run(
        tmp_path, "x", state="running", ended=None, step=42, total_steps=600, metrics=metrics
    )
    beat = read_record(directory).heartbeat["time"]
    write_rows(directory.metrics, [{"step": 40, "train/loss": 3.0}, {"step": 50, "train/loss": 2}])
    write_rows(directory.timing, [{"step": 53, "time": beat + 3}])
    entry = entry_of(directory)
    assert (entry.state, entry.record.step) == ("crashed", 53)
    assert entry.record.metrics == {**metrics, "step": 50, "train/loss": 2}
    assert entry.record.heartbeat["time"] == beat + 3
    write_rows(directory.timing, [{"step": 99, "time": beat - 3}])  # of the start before this one
    assert entry_of(directory).record.step == 50


def test_the_rows_of_a_run_that_ended_do_not_change_its_record(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x", step=600)
    write_rows(directory.metrics, [{"step": 700, "train/loss": 1.0}])
    assert entry_of(directory).record.step == 600


def test_a_damaged_last_row_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step" \n[]\n\xff\xfe\n{"step": 9')
    assert last_row(path) == {"step": 1}


def test_a_beat_that_is_due_is_written_at_once(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    recorder = Recorder(directory, RunRecord("x"))
    recorder.start()
    recorder.step = 5
    recorder.beat_soon()
    deadline = time.monotonic() + 3  # a heartbeat takes longer
    while read_record(directory).step != 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read_record(directory).step == 5
    recorder.stop()


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "free some space there"), (errno.EACCES, "make x writable")]
)
def test_a_full_disk_is_not_taken_for_a_permission(number: int, says: str) -> None:
    assert write_remedy(OSError(number, "no"), "x") == says


def test_what_tells_runs_apart_comes_first(tmp_path: Path) -> None:
    same = {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}
    for number in range(3):
        keys = {**same, "z.lr": float(number)} if number else {"z.lr": 0.0}
        make_run(tmp_path, f"x-{number}", identity={"hash": "a", "keys": keys})
    with pytest.raises(UsageError) as caught:
        find_run(tmp_path, "x")
    assert [line.split()[4] for line in caught.value.message.splitlines()[1:]] == [
        "z.lr=0.0,",
        "z.lr=1.0,",
        "z.lr=2.0,",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": "x"},
        {"step": True},
        {"step": 10**30},
        {"started": None},
        {"started": 1e300},
        {"ended": float("nan")},
        {"metrics": []},
        {"metrics": {"best": 3}},
        {"identity": None},
        {"tags": "a"},
        {"state": 3},
        {"format_version": "1"},
        {"heartbeat": {"time": "now"}},
        {"heartbeat": {"time": 1e300}},
    ],
)
def test_a_record_with_a_value_that_makes_no_sense_is_damaged_and_named(
    wrong: dict[str, object], tmp_path: Path
) -> None:
    directory = make_run(tmp_path, "x")
    make_run(tmp_path, "y")
    body = json.loads(directory.record.read_bytes()) | wrong
    directory.record.write_text(json.dumps(body))
    with pytest.raises(RunError, match=rf"run\.json cannot be read: {next(iter(wrong))}"):
        read_record(directory)
    assert [entry.state for entry in list_runs(tmp_path)] == ["unreadable", "completed"]


@pytest.mark.parametrize(
    "wrong", [{"steps": "x"}, {"ended": None}, {"artifacts": []}, {"final_loss": "low"}]
)
def test_a_completion_with_a_value_that_makes_no_sense_is_damaged_and_named(
    wrong: dict[str, object], tmp_path: Path
) -> None:
    complete(make_run(tmp_path, "x"), final_loss=float("nan"))
    path = completion_path(tmp_path, "x")
    assert read_completion(tmp_path, "x") is not None
    path.write_text(json.dumps(json.loads(path.read_bytes()) | wrong))
    with pytest.raises(RunError, match=rf"x\.json is damaged: {next(iter(wrong))} is "):
        read_completion(tmp_path, "x")


def test_a_record_of_a_newer_format_is_not_called_damaged(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x")
    body = json.loads(directory.record.read_bytes()) | {"format_version": 99, "step": "later"}
    directory.record.write_text(json.dumps(body))
    with pytest.raises(RunError, match="has format 99, newer than this llmforge"):
        read_record(directory)
