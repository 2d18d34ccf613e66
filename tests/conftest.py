"""Servers that several tests share; each starts once, when the first test asks for it."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator

import pytest
from servers import FaultProxy, Server, gcs_server, make_s3_bucket, s3_server

from llmforge.settings import settings

GCS_BUCKET = "forge-tests"

if hasattr(signal, "SIGHUP"):  # nohup ignores it, and so would every process the tests start
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Take back what a test brings into the environment, a ``.env`` file's values among it.

    No test has the settings that an earlier one read.
    """
    before = dict(os.environ)
    settings.cache_clear()
    yield
    settings.cache_clear()
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def _s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = s3_server(tmp_path_factory.mktemp("s3") / "server.log")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def _gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = gcs_server(tmp_path_factory.mktemp("gcs") / "server.log", bucket=GCS_BUCKET)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with credentials for an S3 server and nothing of the user's."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.fixture
def s3(_s3: Server, aws: pytest.MonkeyPatch) -> Server:
    """A running S3 server, the environment leading to it."""
    aws.setenv("AWS_ENDPOINT_URL", _s3.url)
    return _s3


@pytest.fixture
def s3_url(s3: Server) -> str:
    """The URL of an empty folder in a bucket of its own."""
    name = f"bucket-{secrets.token_hex(4)}"
    make_s3_bucket(s3, name)
    return f"s3://{name}/runs"


@pytest.fixture
def s3_proxy(s3: Server, aws: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the S3 server, the environment leading to it."""
    proxy = FaultProxy(s3)
    aws.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.close()


@pytest.fixture
def gcs(_gcs: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A running emulator of Google Cloud Storage, the environment leading to it."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", _gcs.url)
    return _gcs


@pytest.fixture
def gcs_url(gcs: Server) -> str:
    """The URL of an empty folder."""
    return f"gs://{GCS_BUCKET}/{secrets.token_hex(8)}"


@pytest.fixture
def gcs_proxy(gcs: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the emulator, the environment leading to it."""
    proxy = FaultProxy(gcs)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    yield proxy
    proxy.close()
