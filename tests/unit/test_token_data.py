"""Tokenised shards as data: found, fetched, checked, noticed when they changed."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import ValidationError

from llmforge.data.shards import TokenSplit
from llmforge.data.tokens import prepare_tokens
from llmforge.errors import DataError, RecipeError
from llmforge.interfaces import RunContext
from llmforge.recipe import load_recipe
from llmforge.testing import TinyTokenizer, run_context
from llmforge_plugins.data import _files, _remote
from llmforge_plugins.data.tokens import Tokens
from llmforge_plugins.tokenizers.ids import IdTokenizer, build


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch) -> RunContext:
    monkeypatch.chdir(tmp_path)
    return run_context(tmp_path, notice=notices.append, offline=False)


def opened(run: RunContext, **options: Any) -> Any:
    return Tokens(Tokens.Options(**options)).forge_build_data(run=run)


def write(name: str, *ids: int) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(ids, np.uint16))
    return path


def ids(data: Any, split: str) -> list[list[int]]:
    return [shard.ids.tolist() for shard in data.shards(split)]


def prepared(run: RunContext, data: Any, tokenizer: Any) -> dict[str, TokenSplit]:
    return prepare_tokens(
        data, tokenizer, cache=run.cache, notice=run.notice, check_stop=lambda: None
    )


# Which files ---------------------------------------------------------------------------------


def test_a_folder_stands_for_its_shards_in_order(run: RunContext) -> None:
    write("in/b.npy", 2)
    write("in/deep/c.npy", 3)
    np.array([1], np.uint16).tofile("in/a.bin")
    Path("in/readme.txt").write_text("no shard")
    data = opened(run, path="in", validation_fraction=0.0)
    assert ids(data, "train") == [[1], [2], [3]]
    assert tuple(data.splits) == ("train",)
    assert data.description == "tokens, 3 files"


def test_validation_and_test_shards_are_chosen_by_pattern(
    run: RunContext, notices: list[str]
) -> None:
    for name in ("train_0", "train_1", "val_0", "test_0"):
        write(f"in/{name}.npy", len(name))
    data = opened(run, path="in/*.npy", validation="in/val_*.npy", test="in/test_*.npy")
    assert (ids(data, "train"), ids(data, "validation")) == ([[7], [7]], [[5]])
    assert tuple(data.splits) == ("train", "validation", "test")
    assert "val_0.npy" in notices[0]


@pytest.mark.parametrize(("limit", "count"), [(-1, 4), (1, 1), (3, 3), (9, 4)])
def test_max_files_takes_the_first_training_shards_only(
    run: RunContext, limit: int, count: int
) -> None:
    for index in range(4):
        write(f"in/{index}.npy", index)
    write("val.npy", 9)
    data = opened(run, path="in", validation="val.npy", max_files=limit)
    assert ids(data, "train") == [[index] for index in range(count)]
    assert ids(data, "validation") == [[9]]


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_without_validation_shards_the_last_tokens_validate(
    run: RunContext, fraction: float
) -> None:
    write("0.npy", *range(10))
    write("1.npy", *range(10, 20))
    data = opened(run, path=["0.npy", "1.npy"], validation_fraction=fraction)
    train, validation = (
        [index for shard in ids(data, split) for index in shard]
        for split in ("train", "validation")
    )
    assert train + validation == list(range(20))
    assert len(validation) == round(20 * fraction)
    assert all(ids(data, "train")) and all(ids(data, "validation"))


def test_local_patterns_without_files_are_reported_before_the_run(run: RunContext) -> None:
    component = Tokens(Tokens.Options(path=["none/*.npy", "s3://bucket/x.npy"], test="no.bin"))
    component.name = "tokens"
    problems = component.forge_preflight(run=run)
    assert [problem.key for problem in problems] == ["data.tokens.path", "data.tokens.test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "train"),
        ({"train": "a", "path": "b"}, "not both"),
        ({"path": "a", "max_files": 0}, "at least 1, or -1"),
        ({"path": "a", "eos_id": 300, "vocab_size": 300}, "not below"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Tokens.Options(**options)


def test_raw_files_are_wide_where_the_vocabulary_is(run: RunContext) -> None:
    np.array([1, 70_000], np.uint32).tofile("a.bin")
    wide = opened(run, path="a.bin", vocab_size=100_000, validation_fraction=0.0)
    assert ids(wide, "train") == [[1, 70_000]]
    assert (
        opened(run, path="a.bin", dtype="uint32").fingerprint
        == opened(run, path="a.bin", vocab_size=100_000).fingerprint
    )


# What is in them -----------------------------------------------------------------------------


def test_shards_become_splits_without_a_copy(run: RunContext) -> None:
    path = write("0.npy", 1, 2, 0, 3, 0)
    data = opened(run, path="0.npy", validation_fraction=0.0)
    split = prepared(run, data, IdTokenizer(10, eos_id=0))["train"]
    assert (split.n_tokens, split.documents, split.n_bytes) == (5, 2, None)
    assert split.shards[0].path == path.resolve()
    assert split.read(1, 4).tolist() == [2, 0, 3]
    assert not list(run.cache.rglob("*.bin"))


def test_an_id_beyond_the_vocabulary_names_the_shard(run: RunContext) -> None:
    write("good.npy", 1, 256)
    write("bad.npy", 1, 300, 257)
    data = opened(run, path=["good.npy", "bad.npy"], validation_fraction=0.0)
    with pytest.raises(DataError, match=r"bad\.npy has the token id 300.*ids 0 to 256"):
        prepared(run, data, TinyTokenizer())
    own = opened(run, path=["good.npy", "bad.npy"], validation_fraction=0.0, vocab_size=301)
    assert prepared(run, own, IdTokenizer(301, eos_id=None))
    with pytest.raises(DataError, match=r"good\.npy has the token id 256"):
        prepared(run, dataclasses_like(own, vocab_size=256), IdTokenizer(301, eos_id=None))


def dataclasses_like(data: Any, **changes: Any) -> Any:
    """Return ``data`` with other attributes."""
    for name, value in changes.items():
        setattr(data, name, value)
    return data


def test_a_negative_id_names_the_shard(run: RunContext) -> None:
    np.save("a.npy", np.array([1, -100, 5]))
    data = opened(run, path="a.npy", validation_fraction=0.0)
    with pytest.raises(DataError, match=r"a\.npy has the token id -100"):
        prepared(run, data, TinyTokenizer())


def test_data_and_tokenizer_must_end_texts_alike(run: RunContext) -> None:
    write("a.npy", 1, 2)
    data = opened(run, path="a.npy", eos_id=2)
    with pytest.raises(DataError, match="with the id 2, the tokenizer with 256"):
        prepared(run, data, TinyTokenizer())


def test_ids_are_read_once_and_not_at_every_start(run: RunContext) -> None:
    write("a.npy", *range(100))
    asked: list[int] = []
    for _ in range(2):
        data = opened(run, path="a.npy")
        prepare_tokens(
            data,
            TinyTokenizer(),
            cache=run.cache,
            notice=run.notice,
            check_stop=lambda: asked.append(1),
        )
    assert len(asked) == 2  # training and validation part, at the first start only
    (record,) = (run.cache / "tokens").glob("*.shards.json")
    record.write_text("{")
    prepared(run, opened(run, path="a.npy"), TinyTokenizer())
    assert record.read_text() != "{"


# Changes -------------------------------------------------------------------------------------


def test_the_fingerprint_follows_contents_and_not_places(run: RunContext) -> None:
    write("a.npy", 1, 2, 3)
    write("elsewhere/b.npy", 1, 2, 3)
    write("c.npy", 1, 2, 4)
    one = opened(run, path="a.npy").fingerprint
    assert opened(run, path="elsewhere").fingerprint == one
    others = {
        opened(run, path="c.npy").fingerprint,
        opened(run, path=["a.npy", "c.npy"]).fingerprint,
        opened(run, path="a.npy", validation_fraction=0.5).fingerprint,
    }
    assert len(others | {one}) == 4


def test_a_resume_names_the_shards_that_changed(run: RunContext, notices: list[str]) -> None:
    for index in range(3):
        write(f"in/{index}.npy", index)
    before = opened(run, path="in")
    resumed = dataclasses.replace(run, resolved={"data": before.resolution})
    assert opened(resumed, path="in").fingerprint == before.fingerprint
    assert notices == []
    write("in/1.npy", 7)
    Path("in/2.npy").unlink()
    write("in/3.npy", 3)
    assert opened(resumed, path="in").fingerprint != before.fingerprint
    assert [notice.partition(" since")[0] for notice in notices] == [
        "shards changed",
        "shards new",
        "shards gone",
    ]
    assert [notice.rpartition("/")[2] for notice in notices] == ["1.npy", "3.npy", "2.npy"]


def test_a_file_is_hashed_again_only_when_it_looks_changed(
    run: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("a.npy", 1, 2)
    hashed: list[Path] = []
    real = _files.sha256_of

    def noted(file: Path, **told: Any) -> str:
        hashed.append(file)
        return real(file, **told)

    monkeypatch.setattr(_files, "sha256_of", noted)
    first = _files.checksum(path, cache=run.cache)
    _files.checksum(path, cache=run.cache)
    assert len(hashed) == 2  # just written: it may still change without a new time
    os.utime(path, (1_000_000, 1_000_000))
    for _ in range(3):
        assert _files.checksum(path, cache=run.cache) == first
    assert len(hashed) == 3
    write("a.npy", 1, 3)
    os.utime(path, (1_000_001, 1_000_001))
    assert _files.checksum(path, cache=run.cache) != first


# URLs ----------------------------------------------------------------------------------------


def npy(*values: int) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array(values, np.uint16))
    return buffer.getvalue()


@pytest.fixture
def place() -> Iterator[MemoryFileSystem]:
    """An fsspec file system in memory."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_shards_behind_urls_are_mapped_from_the_cache(
    run: RunContext, place: MemoryFileSystem
) -> None:
    for index in range(3):
        place.pipe(f"/shards/{index}.npy", npy(index))
    data = opened(run, path="memory://shards/", max_files=2, validation_fraction=0.0)
    assert ids(data, "train") == [[0], [1]]
    assert len(list(run.cache.rglob("*.npy"))) == 2  # the third was not fetched
    assert run.cache in data.shards("train")[0].path.parents
    names = [shard.name for shard in data.shards("train")]
    assert names == ["memory:///shards/0.npy", "memory:///shards/1.npy"]


def test_a_shard_that_changed_there_is_fetched_again(
    run: RunContext, place: MemoryFileSystem
) -> None:
    place.pipe("/shards/0.npy", npy(1, 2))
    first = opened(run, path="memory://shards/*.npy")
    place.pipe("/shards/0.npy", npy(1, 3))
    second = opened(run, path="memory://shards/*.npy")
    assert first.fingerprint != second.fingerprint
    assert first.resolution != second.resolution


def test_a_place_that_is_away_is_served_from_the_cache(
    run: RunContext, place: MemoryFileSystem, notices: list[str]
) -> None:
    place.pipe("/shards/0.npy", npy(1))
    before = opened(run, path="memory://shards/*.npy")
    offline = dataclasses.replace(run, offline=True)
    assert opened(offline, path="memory://shards/*.npy").fingerprint == before.fingerprint
    assert "using what it had last time" in notices[0]
    assert "using the copy in the cache" in notices[1]
    with pytest.raises(DataError, match="offline mode is on"):
        opened(offline, path="memory://never/*.npy")


def test_a_download_that_is_cut_short_is_not_taken(
    run: RunContext, place: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake only for the fault: the file system delivers less than it announced."""
    place.pipe("/shards/0.npy", npy(*range(50)))

    def cut(self: Any, remote: str, local: str, **options: Any) -> None:
        Path(local).write_bytes(place.cat_file(remote)[:-9])

    monkeypatch.setattr(MemoryFileSystem, "get_file", cut)
    with pytest.raises(DataError, match=r"memory://shards/0\.npy cannot be read.*bytes arrived"):
        opened(run, path="memory://shards/0.npy")
    assert not list(run.cache.rglob("*.npy"))


def test_another_content_than_the_services_md5_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    right = {"size": 7, "md5Hash": "mgNkuembtIDdJeHwKEyFVQ=="}
    _remote._verify(tmp_path / "a", right)
    with pytest.raises(OSError, match="what arrived differs"):
        _remote._verify(tmp_path / "a", {**right, "md5Hash": "XrY7u+Ae7tCTyyK7j1rNww=="})


def test_a_place_that_hangs_is_given_up(
    run: RunContext, place: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake only for the fault: the file system never answers."""
    place.pipe("/shards/0.npy", npy(1))
    answer = threading.Event()
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda *_, **__: answer.wait(30))
    monkeypatch.setattr(_remote, "STALL_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(DataError, match="nothing has arrived from memory://shards"):
        opened(run, path="memory://shards/0.npy")
    assert time.monotonic() - began < 10
    answer.set()


def test_a_missing_object_is_named(run: RunContext, place: MemoryFileSystem) -> None:
    with pytest.raises(DataError, match=r"no file matches 'memory://shards/none\.npy'"):
        opened(run, path="memory://shards/none.npy")
    with pytest.raises(DataError, match=r"data\.tokens\.path: no file matches"):
        opened(run, path="memory://shards/*.npy")


def test_a_folder_without_a_slash_says_what_to_write(
    run: RunContext, place: MemoryFileSystem
) -> None:
    place.pipe("/shards/0.npy", npy(1))
    with pytest.raises(DataError, match=r"is a folder(?s:.*)end it with /"):
        opened(run, path="memory://shards")


# With a tokenizer ----------------------------------------------------------------------------


RECIPE = """
[model]
name = "transformer"
[data]
name = "tokens"
[data.tokens]
path = "x.npy"
[train]
max_steps = 1
"""


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ([], "tokenizer.name: data 'tokens' is tokens already"),
        (["tokenizer.name=ids", "data.max_documents=3"], "data.max_documents: data 'tokens'"),
        (
            ["tokenizer.name=ids", "early_stopping.metric=val/bits_per_byte"],
            "early_stopping.metric: data 'tokens'",
        ),
        (["tokenizer.name=ids"], None),
        (["tokenizer.name=bytes"], None),
        (["tokenizer.name=hf", "tokenizer.hf.source=openai-community/gpt2"], None),
    ],
)
def test_a_recipe_that_needs_text_is_refused(
    tmp_path: Path, overrides: list[str], problem: str | None
) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    if problem is None:
        load_recipe(tmp_path / "r.toml", overrides=overrides)
        return
    with pytest.raises(RecipeError, match=problem):
        load_recipe(tmp_path / "r.toml", overrides=overrides)


def test_ids_are_written_as_numbers_and_come_back(tmp_path: Path) -> None:
    tokenizer = IdTokenizer(300, eos_id=299)
    assert tokenizer.encode("5 17\n0") == [5, 17, 0]
    assert tokenizer.encode_batch(["1", "2 3"]) == [[1], [2, 3]]
    assert tokenizer.decode([5, 299, 17]) == " 5 17"
    assert tokenizer.encode(tokenizer.decode([5, 17])) == [5, 17]
    tokenizer.save(tmp_path)
    loaded = IdTokenizer.load(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.vocab_size, loaded.eos_id) == (300, 299)


@pytest.mark.parametrize("text", ["300", "-1", "word", "1 2 x"])
def test_a_prompt_of_other_things_than_ids_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="is not a token id below 300"):
        IdTokenizer(300, eos_id=None).encode(text)


def test_the_vocabulary_is_the_datas(run: RunContext) -> None:
    write("a.npy", 1)
    built = build(opened(run, path="a.npy", vocab_size=50, eos_id=49))
    assert (built.vocab_size, built.eos_id) == (50, 49)
    with pytest.raises(DataError, match=r"how many token ids(?s:.*)data\.tokens\.vocab_size"):
        build(opened(run, path="a.npy"))
