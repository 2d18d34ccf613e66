"""The small files of a run in storage: what changed is sent, the completion when it is true."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from upload_parts import make_remote, make_run, upload_all

from llmforge.courier.small_files import Mirror, run_files, small_files
from llmforge.errors import StorageError
from llmforge.remote import RemoteRun
from llmforge.rundir import Completion, RunDirectory, write_completion


@pytest.fixture
def remote(tmp_path: Path) -> RemoteRun:
    return make_remote(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path, 1)


def mirror(run: RunDirectory, remote: RemoteRun, errors: list[str] | None = None) -> Mirror:
    return Mirror(run, remote, on_error=(errors if errors is not None else []).append)


def complete(run: RunDirectory) -> None:
    done = Completion(
        run_id=run.id,
        attempt=1,
        identity="abc",
        state="completed",
        reason="all 1 steps taken",
        steps=1,
        final_loss=None,
        best_loss=None,
        best_step=None,
        started=0.0,
        ended=1.0,
        directory=str(run.path),
        artifacts={},
        next_command="",
    )
    write_completion(run.root, done)


def test_what_of_a_run_is_mirrored_and_what_goes_with_a_checkpoint(run: RunDirectory) -> None:
    for name in ("plots/loss.png", "tokenizer/vocab.json", "trackers/wandb/run.json", "log.txt"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text("x")
    (run.path / "trackers" / "courier.log").write_text("x")
    run.journal.write_text("x")
    run.cursors.mkdir()
    (run.cursors / "tracker-a.json").write_text("{}")
    with_checkpoint = {
        *("run.json", "metrics.jsonl", "cursors/tracker-a.json", "trackers/wandb/run.json"),
    }
    assert {*run_files(run)} == with_checkpoint
    others = {"plots/loss.png", "tokenizer/vocab.json", "log.txt"}
    assert {*small_files(run)} == with_checkpoint | others


def test_only_what_changed_is_sent_again(
    run: RunDirectory, remote: RemoteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[set[str]] = []
    real = remote.mirror
    monkeypatch.setattr(remote, "mirror", lambda files: (sent.append({*files}), real(files)))
    looking = mirror(run, remote)
    looking.look()
    looking.look()
    run.metrics.write_text('{"step": 2}\n')
    looking.look()
    assert sent == [{"run.json", "metrics.jsonl"}, {"metrics.jsonl"}]
    assert remote.read_file("metrics.jsonl") == b'{"step": 2}\n'
    assert remote.attempts() == [1]


def test_the_last_look_brings_back_what_storage_has_lost(
    run: RunDirectory, remote: RemoteRun, tmp_path: Path
) -> None:
    looking = mirror(run, remote)
    looking.look()
    shutil.rmtree(tmp_path / "storage")
    looking.look(last=True)
    assert remote.names() == ["attempt.json", "metrics.jsonl", "run.json"]


def test_the_completion_is_there_only_once_the_final_checkpoint_is(
    run: RunDirectory, remote: RemoteRun
) -> None:
    complete(run)
    looking = mirror(run, remote)
    looking.look(last=True)
    assert remote.completion() is None
    upload_all(run, remote)
    looking.look(last=True)
    found = remote.completion()
    assert found is not None
    assert found.state == "completed"


def test_the_thread_sends_at_once_when_hurried_and_at_the_end(
    run: RunDirectory, remote: RemoteRun
) -> None:
    errors: list[str] = []
    looking = mirror(run, remote, errors)
    looking.start()
    looking.hurry()
    while remote.record() is None:
        assert looking.is_alive()
    assert not looking.complete
    run.metrics.write_text("later")
    looking.close()
    looking.join(20)
    assert looking.complete
    assert remote.read_file("metrics.jsonl") == b"later"
    assert errors == []


def test_a_failure_is_told_once_and_tried_again(
    run: RunDirectory, remote: RemoteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault put in: storage refuses."""
    errors: list[str] = []
    tried: list[int] = []

    def refuse(*_: object) -> None:
        tried.append(1)
        raise StorageError("no")

    monkeypatch.setattr(remote, "begin", refuse)
    monkeypatch.setattr("llmforge.courier.small_files.MIRROR_SECONDS", 0.01)
    looking = mirror(run, remote, errors)
    looking.start()
    while len(tried) < 3:
        assert looking.is_alive()
    looking.close()
    looking.join(20)
    assert errors == ["no"]
    assert not looking.complete
