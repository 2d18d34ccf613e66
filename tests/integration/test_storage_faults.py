"""Uploads through networks that fail, stall, lose and alter, and to servers that are killed."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import FaultProxy, Faults, Seen, Server, gcs_server, make_s3_bucket, s3_server

from llmforge.checkpoint import verify
from llmforge.checkpoint.hashed_files import write_file
from llmforge.checkpoint.publish import Draft, FileWriter, publish
from llmforge.errors import StorageError, StorageStalled
from llmforge.remote import Commit, RemoteRun, list_runs, new_token


def content(data: bytes) -> FileWriter:
    return lambda path: write_file(path, [data])


def checkpoint(directory: Path, step: int, *, size: int = 5000) -> Path:
    """Publish a checkpoint with ``size`` bytes of weights that no other step has."""
    weights = hashlib.shake_256(str(step).encode()).digest(size)
    files = {"model.safetensors": weights, "trainer.json": b"{}", "tokenizer/vocab.json": b"[]"}
    draft = Draft(
        step=step, recipe_hash="0123", files={name: content(data) for name, data in files.items()}
    )
    return publish(directory, draft=draft).path


def upload_until_committed(run: RemoteRun, path: Path, token: str, *, tries: int = 60) -> Commit:
    """Try again and again, as the courier does."""
    for number in range(tries):
        try:
            return run.upload(path, token=token, run_files={"metrics.jsonl": path / "trainer.json"})
        except StorageError:
            time.sleep(min(0.1 * 2**number, 1.0))
    raise AssertionError(f"{path.name} was not committed in {tries} tries")


def hashes(path: Path) -> dict[str, str]:
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize(
    "uploads",
    [
        8,
        pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_with_every_second_request_failing_or_stalling_all_uploads_are_committed(
    s3: Server, s3_url: str, s3_proxy: FaultProxy, tmp_path: Path, uploads: int
) -> None:
    clean = RemoteRun(s3_url, {"endpoint_url": s3.url}, "run", 1)
    faulty = RemoteRun(s3_url, {"endpoint_url": s3_proxy.url}, "run", 1, stall_seconds=1.5)
    paths = [checkpoint(tmp_path, step) for step in range(1, uploads + 1)]
    before = hashes(tmp_path)
    s3_proxy.faults = Faults(error=0.25, cut=0.1, lost=0.1, stall=0.05)
    s3_proxy.stall_seconds = 4.0
    damaged: list[str] = []
    over = threading.Event()

    def watch() -> None:
        """Look at the storage as another machine would: what is committed is whole."""
        while not over.wait(2.0):
            for commit in clean.commits()[-3:]:
                damaged.extend(clean.verify(commit))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            tokens = [new_token() for _ in paths]
            made = list(
                pool.map(
                    lambda job: upload_until_committed(faulty, *job),
                    zip(paths, tokens, strict=True),
                )
            )
    finally:
        over.set()
        watcher.join()
    assert damaged == []
    assert clean.commits() == made
    assert [commit.token for commit in made] == tokens
    assert len(s3_proxy.suffered) > 0.4 * len(s3_proxy.seen)
    assert {"error", "cut", "lost", "stall"} <= set(s3_proxy.suffered)
    assert hashes(tmp_path) == before
    for path, commit in zip(paths, made, strict=True):
        assert clean.verify(commit, deep=True) == []
        assert {name: entry.sha256 for name, entry in commit.files.items()} == hashes(path)


def test_a_commit_whose_answer_is_lost_is_recognised_as_ones_own(
    s3_proxy: FaultProxy, s3_url: str, tmp_path: Path
) -> None:
    def lose_commits(request: Seen) -> str:
        return "lost" if request.method == "PUT" and "COMMIT.json" in request.path else ""

    s3_proxy.faults = lose_commits
    run, token = RemoteRun(s3_url, None, "run", 1), new_token()
    commit = run.upload(checkpoint(tmp_path, 5), token=token)
    assert "lost" in s3_proxy.suffered
    assert commit.token == token
    assert run.verify(commit, deep=True) == []


def test_bytes_altered_on_the_way_are_sent_again(
    s3_proxy: FaultProxy, s3_url: str, tmp_path: Path
) -> None:
    def alter_first(request: Seen) -> str:
        altered = request.method == "PUT" and "model" in request.path and not s3_proxy.suffered
        return "alter" if altered else ""

    s3_proxy.faults = alter_first
    run = RemoteRun(s3_url, None, "run", 1)
    commit = run.upload(checkpoint(tmp_path, 5), token=new_token())
    assert s3_proxy.suffered == ["alter"]
    assert run.verify(commit, deep=True) == []


def test_a_storage_that_alters_everything_is_never_committed_to(
    s3_proxy: FaultProxy, s3_url: str, tmp_path: Path
) -> None:
    s3_proxy.faults = lambda request: "alter" if request.method == "PUT" else ""
    run = RemoteRun(s3_url, None, "run", 1)
    with pytest.raises(StorageError, match="is not what was sent"):
        run.upload(checkpoint(tmp_path, 5), token=new_token())
    assert run.commits() == []


def test_a_silent_service_is_given_up_and_the_next_try_goes_on(
    s3_proxy: FaultProxy, s3_url: str, tmp_path: Path
) -> None:
    run, token = RemoteRun(s3_url, None, "run", 1, stall_seconds=1.0), new_token()
    path = checkpoint(tmp_path, 5)
    run.commits()
    s3_proxy.faults = lambda _: "stall"
    started = time.monotonic()
    with pytest.raises(StorageStalled, match="nothing moved for 1 seconds"):
        run.upload(path, token=token)
    assert time.monotonic() - started < 25
    s3_proxy.faults = lambda _: ""
    assert run.upload(path, token=token).token == token


@contextlib.contextmanager
def killed_while_uploading(server: Server, seen: str) -> Iterator[None]:
    """Kill ``server`` as soon as its log shows ``seen``."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.01):
            if seen in server.log.read_text():
                server.kill()
                return

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.slow
def test_an_s3_server_killed_during_an_upload_that_lost_everything(
    aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = s3_server(tmp_path / "server.log")
    server.start()
    try:
        make_s3_bucket(server, "bucket")
        options = {"endpoint_url": server.url}
        run = RemoteRun("s3://bucket/runs", options, "run", 1, stall_seconds=3.0)
        path, token = checkpoint(tmp_path / "local", 5, size=60_000_000), new_token()
        before = hashes(path)
        with (
            killed_while_uploading(server, "partNumber=2"),
            pytest.raises(StorageError),
        ):
            run.upload(path, token=token)
        with pytest.raises(StorageError):
            run.commits()
        server.start()
        make_s3_bucket(server, "bucket")  # this server keeps nothing
        assert run.commits() == []
        commit = run.upload(path, token=token)
        assert run.verify(commit, deep=True) == []
        assert hashes(path) == before
        run.fetch(commit, tmp_path / "elsewhere" / path.name)
        assert hashes(tmp_path / "elsewhere" / path.name) == before
        assert verify(path) == []
    finally:
        server.kill()


@pytest.mark.slow
def test_a_gcs_server_killed_during_an_upload_has_what_was_committed_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = gcs_server(tmp_path / "server.log", bucket="bucket", keep=tmp_path / "kept")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    try:
        run = RemoteRun("gs://bucket/runs", None, "run", 1, stall_seconds=3.0)
        first = run.upload(checkpoint(tmp_path / "local", 5), token=new_token())
        path, token = checkpoint(tmp_path / "local", 6, size=60_000_000), new_token()
        with (
            killed_while_uploading(server, "uploadType=resumable"),
            pytest.raises(StorageError),
        ):
            run.upload(path, token=token)
        server.start()
        assert run.commits() == [first]
        commit = run.upload(path, token=token)
        assert run.commits() == [first, commit]
        assert [entry.steps for entry in list_runs("gs://bucket/runs")] == [(5, 6)]
        assert run.verify(first, deep=True) == run.verify(commit, deep=True) == []
    finally:
        server.kill()
