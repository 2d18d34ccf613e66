"""What a training process is doing is told by what it leaves on the disk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llmforge.courier.journal import JournalWriter
from llmforge.events import MetricsLogged, RunEnded, RunStarted
from llmforge.proof.phases import Watch
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord, write_upload


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "tiny")
    directory.checkpoints.mkdir(parents=True)
    return directory


def log(run: RunDirectory, text: str) -> None:
    with (run.path / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"2026-01-01 00:00:00,000 INFO {text}\n")


def started(run: RunDirectory, *, resumed_from: int | None = None) -> RunStarted:
    return RunStarted(
        run_id=run.id,
        attempt=1,
        restart=1,
        directory=str(run.path),
        config={},
        facts={"total_steps": 12},
        resumed_from=resumed_from,
    )


def watch(run: RunDirectory) -> Watch:
    return Watch(run, log=run.path / "log.txt")


def test_a_start_is_followed_to_its_end(run: RunDirectory) -> None:
    own = watch(run)
    assert own.look() == {"starting": 0}
    assert not own.started
    journal = JournalWriter(run.journal)
    journal.append(started(run, resumed_from=4))
    assert own.look() == {"stepping": 4}
    assert own.resumed_from == 4
    log(run, "evaluating at step 8")
    assert own.look() == {"evaluating": 8}
    log(run, "answering at step 8")
    assert own.look() == {"evaluating": 8}
    log(run, "evaluation at step 8: val/loss 2.0000")
    journal.append(MetricsLogged(step=8, values={"train/loss": 2.0}, time=1.0))
    assert own.look() == {"stepping": 8}
    temporary = run.checkpoints / ".tmp-step-00000008-123"
    temporary.mkdir()
    assert own.look() == {"stepping": 8, "saving": 8}
    temporary.rmdir()
    journal.append(MetricsLogged(step=12, values={"train/loss": 1.0}, time=2.0))
    assert own.look() == {"finishing": 12}
    journal.append(RunEnded(state="completed", reason="", step=12, metrics={}))
    journal.close()
    assert own.look() == {}


def test_what_an_earlier_start_left_is_not_this_starts(run: RunDirectory) -> None:
    journal = JournalWriter(run.journal)
    journal.append(started(run))
    log(run, "evaluating at step 4")
    write_upload(run, UploadRecord(step=4, state="uploading", updated=time.time() - 5))
    with run.journal.open("ab") as file:
        file.write(b'{"hook": "forge_met')  # torn by the kill, and cut off by the next start
    own = watch(run)
    assert own.look() == {"starting": 0}
    again = JournalWriter(run.journal)
    again.append(started(run))
    assert own.look() == {"stepping": 0}
    write_upload(run, UploadRecord(step=4, state="verifying", updated=time.time()))
    assert own.look() == {"stepping": 0, "uploading": 4}
    write_upload(run, UploadRecord(step=4, state="committed", updated=time.time()))
    assert own.look() == {"stepping": 0}
    journal.close()
    again.close()
