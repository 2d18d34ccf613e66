"""Text and shards from a real S3 server and a Google Cloud Storage emulator."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from servers import FaultProxy, Faults, Server

from llmforge.errors import DataError
from llmforge.interfaces import RunContext
from llmforge.testing import run_context
from llmforge_plugins.data import _remote
from llmforge_plugins.data.text import Text
from llmforge_plugins.data.tokens import Tokens


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, notices: list[str]) -> RunContext:
    return run_context(tmp_path, notice=notices.append, offline=False)


@pytest.fixture(autouse=True)
def fresh_file_systems() -> Iterator[None]:
    """No file system that an earlier test led elsewhere."""
    yield
    for scheme in ("s3", "gs"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
    from gcsfs.core import GCSFileSystem

    GCSFileSystem.clear_instance_cache()


@pytest.fixture(params=["s3_url", "gcs_url"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty folder on each of the services."""
    found: str = request.getfixturevalue(request.param)
    return found


def upload(url: str, **contents: bytes) -> None:
    """Write files below ``url`` as any other program would."""
    filesystem, path = _remote._open(url)
    for name, content in contents.items():
        filesystem.pipe_file(f"{path}/{name.replace('__', '.')}", content)


def npy(*values: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, np.uint16))
    return buffer.getvalue()


def open_tokens(run: RunContext, **options: Any) -> Any:
    return Tokens(Tokens.Options(**options)).forge_build_data(run=run)


def ids(data: Any) -> list[list[int]]:
    return [shard.ids.tolist() for shard in data.shards("train")]


def test_a_glob_of_texts_is_read(run: RunContext, url: str) -> None:
    upload(url, a__txt=b"one\n", b__txt=b"two\n", c__md=b"no text\n", v__txt=b"held out\n")
    options = Text.Options(path=f"{url}/[ab].txt", validation=f"{url}/v.txt")
    data = Text(options).forge_build_data(run=run)
    assert list(data.iter_text("train")) == ["one\n", "two\n"]
    assert list(data.iter_text("validation")) == ["held out\n"]


def test_shards_are_mapped_from_verified_copies(run: RunContext, url: str) -> None:
    raw = np.arange(9, dtype=np.uint16).tobytes()
    upload(url, **{"0__npy": npy(1, 2), "1__bin": raw, "2__npy": npy(3), "x__txt": b"no shard"})
    data = open_tokens(run, path=f"{url}/", max_files=2, validation_fraction=0.0)
    assert ids(data) == [[1, 2], list(range(9))]
    kept = [path for path in (run.cache / "datasets" / "remote").rglob("*") if path.is_file()]
    assert sorted(path.name for path in kept) == ["0.npy", "1.bin", "listing.json"]


def test_a_shard_replaced_there_is_noticed(run: RunContext, url: str, notices: list[str]) -> None:
    upload(url, a__npy=npy(1, 2), b__npy=npy(3, 4))
    before = open_tokens(run, path=f"{url}/*.npy")
    upload(url, b__npy=npy(3, 5))
    resumed = dataclasses.replace(run, resolved={"data": before.resolution})
    after = open_tokens(resumed, path=f"{url}/*.npy")
    assert after.fingerprint != before.fingerprint
    (notice,) = notices
    assert "shards changed since the run started" in notice
    assert notice.endswith("/b.npy")


def test_what_is_not_there_is_named(run: RunContext, url: str) -> None:
    with pytest.raises(DataError, match=rf"no file matches '{url}/none\.npy'"):
        open_tokens(run, path=f"{url}/none.npy")
    with pytest.raises(DataError, match=r"data\.tokens\.path: no file matches"):
        open_tokens(run, path=f"{url}/*.npy")


def test_shards_arrive_through_a_network_that_fails_often(
    run: RunContext, s3_url: str, s3_proxy: FaultProxy
) -> None:
    contents = {f"{index}__npy": npy(*range(index, index + 50)) for index in range(12)}
    upload(s3_url, **contents)
    s3_proxy.faults = Faults(error=0.3, cut=0.1)
    data = open_tokens(run, path=f"{s3_url}/*.npy", validation_fraction=0.0)
    assert sorted(shard[0] for shard in ids(data)) == list(range(12))
    assert s3_proxy.seen


@pytest.mark.slow
def test_a_server_that_is_gone_leaves_the_copies(
    run: RunContext, notices: list[str], tmp_path: Path, aws: pytest.MonkeyPatch
) -> None:
    from servers import make_s3_bucket, s3_server

    server: Server = s3_server(tmp_path / "server.log")
    server.start()
    try:
        make_s3_bucket(server, "short-lived")
        aws.setenv("AWS_ENDPOINT_URL", server.url)
        upload("s3://short-lived/x", **{"0__npy": npy(1, 2, 3)})
        before = open_tokens(run, path="s3://short-lived/x/*.npy")
    finally:
        server.kill()
    after = open_tokens(run, path="s3://short-lived/x/*.npy")
    assert after.fingerprint == before.fingerprint
    assert any("using what it had last time" in notice for notice in notices)
    with pytest.raises(DataError, match=r"cannot be listed(?s:.*)AWS_PROFILE"):
        open_tokens(run, path="s3://short-lived/y/*.npy")


RECIPE = """
[run]
id = "from-a-bucket"
[model]
name = "transformer"
[model.transformer]
layers = 1
width = 16
heads = 2
context = 16
[tokenizer]
name = "ids"
[data]
name = "tokens"
[data.tokens]
path = "{url}/*.bin"
vocab_size = 100
validation_fraction = 0.1
[train]
max_steps = 8
batch_size = 4
precision = "fp32"
compile = false
log_every = 2
[tracker]
names = []
"""


def test_a_run_trains_on_shards_in_a_bucket(
    url: str, forge_recipe: Any, forge_cli: Any, tmp_path: Path
) -> None:
    draw = np.random.default_rng(3)
    raw = [draw.integers(0, 100, 500, np.uint16).tobytes() for _ in range(3)]
    upload(url, **{f"{index}__bin": content for index, content in enumerate(raw)})
    recipe = forge_recipe(RECIPE.replace("{url}", url))
    forge_cli("train", recipe, "--set", "run.root=runs", "--set", "train.stop_at=4")
    forge_cli("train", recipe, "--set", "run.root=runs")
    run = tmp_path / "runs" / "from-a-bucket"
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["state"] == "completed"
    shards = record["resolved"]["data"]["shards"]
    assert sorted(name.rpartition("/")[2] for name in shards) == ["0.bin", "1.bin", "2.bin"]
    (last,) = run.glob("checkpoints/step-00000008/metadata.json")
    told = json.loads(last.read_text(encoding="utf-8"))
    assert told["files"] == 3
