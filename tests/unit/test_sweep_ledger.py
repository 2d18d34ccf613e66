"""The ledger: attempts are taken once, survive torn writes, and read the same everywhere."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sweep_parts import open_ledger, told

from llmforge.errors import RunError
from llmforge.sweeps.journal_file import JournalFile
from llmforge.sweeps.trials import Result


def test_an_attempt_is_seen_by_everyone_with_its_parameters_and_its_end(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    entry = ledger.begin(0, 0, 0, {"a": 1})
    assert entry is not None
    ledger.set_run(entry, run_id="tune_1", identity="f00")
    ledger.report(entry, 10, 3.5)
    ledger.finish(entry, Result(outcome="completed", value=3.25, seconds=2.0))
    (trial,) = open_ledger(tmp_path).trials()
    assert (trial.state, trial.value, trial.seconds) == ("completed", 3.25, 2.0)
    assert (trial.parameters, trial.run["id"], trial.curve) == ({"a": 1}, "tune_1", {10: 3.5})


def test_of_many_that_want_the_same_attempt_one_gets_it(tmp_path: Path) -> None:
    ledgers = [open_ledger(tmp_path) for _ in range(8)]
    won: list[int | None] = []
    threads = [
        threading.Thread(target=lambda own=own: won.append(own.begin(0, 0, 0, {"a": 1})))
        for own in ledgers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 8
    assert len([entry for entry in won if entry is not None]) == 1
    (trial,) = ledgers[0].trials()
    assert len(trial.attempts) == 1


def test_the_first_proposal_of_a_point_is_the_point(tmp_path: Path) -> None:
    first, second = open_ledger(tmp_path), open_ledger(tmp_path)
    assert first.begin(0, 0, 0, {"a": 1}) is not None
    assert second.begin(0, 0, 0, {"a": 2}) is None
    assert [trial.parameters for trial in second.trials()] == [{"a": 1}]


def test_a_completion_counts_whatever_came_after_it(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    slow = ledger.begin(0, 0, 0, {})
    taken = ledger.begin(0, 0, 1, {})
    assert slow is not None
    assert taken is not None
    ledger.finish(slow, Result(outcome="completed", value=1.0))
    ledger.finish(taken, Result(outcome="interrupted"))
    assert told(ledger.trials()) == [(0, 0, "completed")]


def test_an_ended_trial_that_is_queued_again_waits_without_its_pruner(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    entry = ledger.begin(0, 0, 0, {})
    assert entry is not None
    ledger.finish(entry, Result(outcome="pruned", reason="number 3 of 4"))
    ledger.requeue(ledger.trials()[0], prunable=False, reason="asked for")
    (trial,) = ledger.trials()
    assert (trial.state, trial.last.prunable) == ("waiting", False)


def test_stopping_reaches_everyone_and_is_taken_back(tmp_path: Path) -> None:
    ledger, other = open_ledger(tmp_path), open_ledger(tmp_path)
    ledger.stop("asked to")
    assert other.stopped == "asked to"
    other.stop("")
    assert ledger.stopped == ""


def test_what_a_killed_writer_left_of_a_line_is_cut_off_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    journal = JournalFile(path)
    journal.append_logs([{"n": 0}])
    with path.open("ab") as file:
        file.write(b'{"n": 1, "to')
    assert journal.read_logs(0) == [{"n": 0}]
    JournalFile(path).append_logs([{"n": 1}, {"n": 2}])
    assert journal.read_logs(0) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert journal.read_logs(2) == [{"n": 2}]


def test_a_reader_goes_on_from_what_it_has_read(tmp_path: Path) -> None:
    reader, writer = JournalFile(tmp_path / "j"), JournalFile(tmp_path / "j")
    for number in range(5):
        writer.append_logs([{"n": number}])
        assert reader.read_logs(number) == [{"n": number}]


def test_a_damaged_line_is_told_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b'{"n": 0}\nnot json\n')
    with pytest.raises(RunError, match=r"j:2 is damaged"):
        JournalFile(tmp_path / "j").read_logs(0)
