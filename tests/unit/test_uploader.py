"""The thread that uploads checkpoints: nobody waits for a hopeless one, nothing is left behind."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from checkpoint_drafts import draft, flip_bit, save
from upload_parts import Told, make_remote, make_run, upload_all, uploader

from llmforge.checkpoint import list_checkpoints
from llmforge.checkpoint.publish import delete, publish
from llmforge.courier import pending_uploads
from llmforge.errors import StorageError
from llmforge.remote import Commit, RemoteRun
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import read_uploads


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmforge.courier.checkpoint_uploads.POLL_SECONDS", 0.02)
    monkeypatch.setattr("llmforge.courier.checkpoint_uploads.FIRST_RETRY_SECONDS", 0.02)


@pytest.fixture
def remote(tmp_path: Path) -> RemoteRun:
    return make_remote(tmp_path)


def committed(remote: RemoteRun) -> list[int]:
    return [commit.step for commit in remote.commits()]


def tokens(remote: RemoteRun, step: int) -> list[str]:
    folder = f"my-run/attempt-00001/checkpoints/step-{step:08d}"
    found: list[str] = remote._connections.call("test", lambda storage, _: storage.folders(folder))
    return found


def failing(
    monkeypatch: pytest.MonkeyPatch, remote: RemoteRun, *, step: int, times: int = 1000
) -> list[int]:
    """A fault put in: uploads of ``step`` fail; return the steps that are asked for."""
    real, asked = remote.upload, []

    def upload(checkpoint: Path, **options: Any) -> Commit:
        asked.append(int(checkpoint.name.removeprefix("step-")))
        if asked[-1] == step and asked.count(step) <= times:
            raise StorageError("injected")
        return real(checkpoint, **options)

    monkeypatch.setattr(remote, "upload", upload)
    return asked


def test_everything_is_committed_with_the_states_on_the_way(
    tmp_path: Path, remote: RemoteRun
) -> None:
    run = make_run(tmp_path, 1, 2, 3)
    told = upload_all(run, remote)
    assert committed(remote) == [1, 2, 3]
    for step in (1, 2, 3):
        assert told.of(step) == ["queued", "uploading", "verifying", "committed"]
    assert [step for step, state in told.states if state == "committed"] == [3, 2, 1]
    for step, record in read_uploads(run).items():
        assert (record.state, record.tries, record.error) == ("committed", 1, "")
        assert record.url == f"{remote.url}/checkpoints/step-{step:08d}"
        assert tokens(remote, step) == [record.token]
    assert told.errors == []
    assert upload_all(run, remote).states == []  # nothing is done twice


def test_only_the_steps_that_are_asked_for_are_uploaded(tmp_path: Path, remote: RemoteRun) -> None:
    run, told = make_run(tmp_path, 1, 2, 3), Told()
    thread = uploader(run, remote, told, only=frozenset({2}))
    thread.start()
    thread.close()
    thread.join(30)
    assert committed(remote) == [2]
    assert thread.pending() == []


def test_a_failing_checkpoint_lets_the_others_go_first(
    tmp_path: Path, remote: RemoteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 1, 2, 3)
    asked = failing(monkeypatch, remote, step=3, times=2)
    told = upload_all(run, remote)
    assert asked == [3, 2, 1, 3, 3]
    assert told.of(3) == ["queued", "failed", "failed", "uploading", "verifying", "committed"]
    assert read_uploads(run)[3].tries == 3
    assert committed(remote) == [1, 2, 3]


def test_a_damaged_checkpoint_is_told_once_and_holds_up_nobody(
    tmp_path: Path, remote: RemoteRun
) -> None:
    run = make_run(tmp_path, 1, 2, 3)
    flip_bit(run.checkpoints / "step-00000003" / "model.safetensors")
    told = upload_all(run, remote)
    assert committed(remote) == [1, 2]
    assert told.of(3) == ["queued", "uploading", "failed"]
    record = read_uploads(run)[3]
    assert record.final
    assert "altered" in record.error
    assert [item.step for item in pending_uploads(run, remote.url)] == [3]


def test_another_checkpoint_of_the_step_in_storage_holds_up_nobody(
    tmp_path: Path, remote: RemoteRun
) -> None:
    run = make_run(tmp_path, 1, 2)
    save(tmp_path / "other", 2)
    other = publish(tmp_path / "other", draft=draft(2, weights=b"other"))
    remote.upload(other.path, token="0123456789abcdef", staging=tmp_path / "staging")
    told = upload_all(run, remote)
    assert committed(remote) == [1, 2]
    assert told.of(2)[-1] == "failed"
    assert "holds another checkpoint of step 2" in read_uploads(run)[2].error


def test_what_storage_has_lost_is_sent_again(tmp_path: Path, remote: RemoteRun) -> None:
    run = make_run(tmp_path, 1, 2)
    upload_all(run, remote)
    shutil.rmtree(tmp_path / "storage")
    told = upload_all(run, remote)
    assert committed(remote) == [1, 2]
    assert told.of(2)[:2] == ["queued", "uploading"]


def test_what_a_given_up_upload_left_in_storage_is_removed(
    tmp_path: Path, remote: RemoteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = make_run(tmp_path, 1, 2), Told()
    sent = threading.Event()

    def stop(*_: object) -> None:
        sent.set()
        raise StorageError("injected")

    with monkeypatch.context() as patch:
        patch.setattr("llmforge.remote.upload.Upload._publish", stop)
        thread = uploader(run, remote, told, only=frozenset({2}))
        thread.start()
        assert sent.wait(20)
        delete(run.checkpoints / "step-00000002")
        thread.close()
        thread.join(20)
    assert not thread.is_alive()
    assert told.of(2)[-1] == "cancelled"
    upload_all(run, remote)
    assert tokens(remote, 2) == []
    assert read_uploads(run)[2].leftovers == []
    assert [path for path in run.uploads.iterdir() if path.is_dir()] == []
    assert committed(remote) == [1]


def test_a_new_checkpoint_of_the_step_is_uploaded_and_the_old_remains_removed(
    tmp_path: Path, remote: RemoteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 1)
    first = "aaaaaaaaaaaaaaaa"
    stray = f"my-run/attempt-00001/checkpoints/step-00000001/{first}/model.safetensors"
    remote._connections.call("test", lambda storage, _: storage.write(stray, b"half"))
    with monkeypatch.context() as patch:
        patch.setattr("llmforge.courier.checkpoint_uploads.new_token", lambda: first)
        failing(patch, remote, step=1)
        uploader(run, remote, Told())._upload(list_checkpoints(run.checkpoints)[0])
    delete(run.checkpoints / "step-00000001")
    publish(run.checkpoints, draft=draft(1, weights=b"new"))
    upload_all(run, remote)
    (commit,) = remote.commits()
    assert commit.token != first
    assert tokens(remote, 1) == [commit.token]
    assert remote.verify(commit, deep=True) == []


def test_a_disk_that_fails_is_told_and_does_not_end_the_uploads(
    tmp_path: Path, remote: RemoteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = make_run(tmp_path, 1), Told()
    failures = iter([OSError(28, "No space left on device")] * 3)
    real = uploader(run, remote, told)._write.__func__  # type: ignore[attr-defined]

    def write(self: object, record: object) -> None:
        for failure in failures:
            raise failure
        real(self, record)

    monkeypatch.setattr("llmforge.courier.checkpoint_uploads.Uploader._write", write)
    thread = uploader(run, remote, told)
    thread.start()
    thread.close()
    thread.join(30)
    assert committed(remote) == [1]
    assert len(told.errors) == 1
    assert "No space left" in told.errors[0]


def test_closing_ends_the_thread_although_a_checkpoint_is_hopeless(
    tmp_path: Path, remote: RemoteRun
) -> None:
    run = make_run(tmp_path, 1)
    flip_bit(run.checkpoints / "step-00000001" / "model.safetensors")
    thread = uploader(run, remote, Told())
    thread.start()
    thread.close()
    thread.join(10)
    assert not thread.is_alive()
    assert thread.pending() == [1]


def test_a_run_without_checkpoints_has_nothing_to_upload(tmp_path: Path, remote: RemoteRun) -> None:
    run = RunDirectory(tmp_path / "empty")
    run.path.mkdir()
    assert upload_all(run, remote).states == []
