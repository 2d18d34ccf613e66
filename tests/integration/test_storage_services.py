"""The storages over a network keep the contract, against a real S3 server and a GCS emulator."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import FaultProxy, Server

from llmforge import Component
from llmforge.plugins import load
from llmforge.remote import Connections, open_storage
from llmforge.testing import StorageContract


class TestS3(StorageContract):
    component = load("storage", "s3")
    make_url = None  # the fixture replaces it

    @pytest.fixture
    def url(self, s3_url: str) -> str:
        return s3_url


class TestGcs(StorageContract):
    component = load("storage", "gcs")
    make_url = None  # the fixture replaces it
    # The emulator ignores the condition of a creation; that it is sent is tested below.
    test_of_many_that_create_one_file_one_succeeds = None
    test_creating_never_overwrites = None

    @pytest.fixture
    def url(self, gcs_url: str) -> str:
        return gcs_url


def test_of_fifty_writers_of_one_commit_on_s3_one_wins(s3_url: str) -> None:
    name, writers = "run/attempt-00001/checkpoints/step-00000100/COMMIT.json", 50
    barrier = threading.Barrier(writers)
    contents = [f"commit of writer {number}".encode() for number in range(writers)]

    def write(content: bytes) -> bool:
        storage = open_storage(s3_url)
        storage.size("warm up")
        barrier.wait(120)
        try:
            storage.create(name, content)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(writers) as pool:
        won = [
            content
            for content, mine in zip(contents, pool.map(write, contents), strict=True)
            if mine
        ]
    assert len(won) == 1
    assert open_storage(s3_url).read(name) == won[0]


def test_creating_on_gcs_carries_the_condition_that_nothing_is_there(
    gcs_proxy: FaultProxy, gcs_url: str
) -> None:
    storage = open_storage(gcs_url)
    storage.create("COMMIT.json", b"{}")
    storage.write("other", b"{}")
    created, written = [item.path for item in gcs_proxy.seen if item.method == "POST"]
    assert "ifGenerationMatch=0" in created
    assert "ifGenerationMatch" not in written


def test_creating_on_s3_carries_the_condition_that_nothing_is_there(
    s3_proxy: FaultProxy, s3_url: str
) -> None:
    open_storage(s3_url).create("COMMIT.json", b"{}")
    (put,) = [item for item in s3_proxy.seen if item.method == "PUT"]
    assert put.headers["If-None-Match"] == "*"


def test_a_service_that_says_no_more_than_that_a_condition_failed_is_understood(
    s3_proxy: FaultProxy, s3_url: str, gcs_proxy: FaultProxy, gcs_url: str
) -> None:
    for proxy, url in ((s3_proxy, s3_url), (gcs_proxy, gcs_url)):
        proxy.faults = lambda _: "exists"
        with pytest.raises(FileExistsError):
            open_storage(url).create("COMMIT.json", b"{}")


@pytest.mark.parametrize("size", [9_000_000, 16 << 20, (16 << 20) + 1])
def test_the_etag_of_an_upload_in_parts_proves_its_content(
    s3_proxy: FaultProxy, s3_url: str, tmp_path: Path, size: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(hashlib.shake_256(b"x").digest(size))
    storage = open_storage(s3_url)
    storage.put(source, "file", progress=lambda _: None)
    parts = [item for item in s3_proxy.seen if "partNumber" in item.path]
    assert len(parts) == -(-size // (8 << 20))
    assert storage.same("file", source, progress=lambda _: None) is True


def test_an_upload_that_is_stopped_leaves_no_parts_behind(
    s3_proxy: FaultProxy, s3_url: str, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stop(_: int) -> None:
        raise Stopped

    source = tmp_path / "source"
    source.write_bytes(bytes(9_000_000))
    with pytest.raises(Stopped):
        open_storage(s3_url).put(source, "file", progress=stop)
    assert s3_proxy.seen[-1].method == "DELETE"
    assert "uploadId" in s3_proxy.seen[-1].path


def test_a_bucket_that_is_not_there_is_no_empty_storage(s3: Server) -> None:
    connections = Connections("s3://no-such-bucket/runs")
    with pytest.raises(Exception, match="there is no bucket no-such-bucket"):
        connections.call("listing runs", lambda storage, _: storage.folders(""))
    with pytest.raises(Exception, match="does not exist") as raised:
        connections.call("writing", lambda storage, _: storage.write("a", b""))
    assert "create it" in str(raised.value)


def test_without_credentials_the_error_says_where_they_were_looked_for(
    s3: Server, aws: pytest.MonkeyPatch
) -> None:
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Exception, match="credentials") as raised:
        Connections("s3://bucket/runs").call("listing", lambda storage, _: storage.folders(""))
    assert "AWS_ACCESS_KEY_ID" in str(raised.value)
    assert "~/.aws/credentials" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("s3", {}, "no AWS credentials were found"),
        ("s3", {"profile": "nobody"}, "nobody"),
        ("s3", {"anonymous": True}, ""),
        ("gcs", {}, "no Google credentials were found"),
        ("gcs", {"anonymous": True}, ""),
    ],
)
def test_preflight_finds_missing_credentials(
    aws: pytest.MonkeyPatch, tmp_path: Path, name: str, options: dict[str, object], message: str
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "STORAGE_EMULATOR_HOST"):
        aws.delenv(variable, raising=False)
    aws.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    kind = load("storage", name)
    component: Component = kind(kind.Options(**options))
    problems = component.forge_preflight(run=None)  # type: ignore[attr-defined]
    assert [message in str(problem) for problem in problems] == ([True] if message else [])
    assert all("looked for" in problem.remedy for problem in problems)
