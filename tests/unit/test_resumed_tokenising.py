"""Tokenising that is killed continues where it was, and a finished cache opens at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from llmforge.data import cache_entry, pieces, tokenising
from llmforge.data.pieces import Place, batches_of_parts, parts_after, parts_of
from llmforge.data.shards import TokenSplit
from llmforge.data.tokens import prepare_tokens

PIECE, BATCH, SHARD = 64, 512, 2048


class Text:
    """Documents of very different lengths, in parts, which says how many characters were read."""

    splits = ("train", "validation")
    fingerprint = "text of a test"
    description = "text of a test"

    def __init__(self, *, wait_after: int | None = None) -> None:
        self.texts = {
            "train": [f"{n} word " * (1 + n * 37 % 300) for n in range(60)] + ["x", ""],
            "validation": ["é " * 3000],
        }
        self.wait_after = wait_after
        self.asked: list[str] = []

    def iter_parts(self, split: str) -> Iterator[tuple[str, bool]]:
        self.asked.append(split)
        read = 0
        for text in self.texts[split]:
            for start in range(0, max(1, len(text)), 777):
                part = text[start : start + 777]
                read += len(part)
                if self.wait_after is not None and read > self.wait_after:
                    time.sleep(60)
                yield part, start + 777 >= len(text)


class Counting:
    """One id per byte; ``encoded`` counts the characters."""

    vocab_size, eos_id, fingerprint = 257, 256, "bytes of a test"

    def __init__(self) -> None:
        self.encoded = 0
        self.threads: set[str] = set()
        self._lock = threading.Lock()

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        with self._lock:
            self.encoded += sum(map(len, texts))
            self.threads.add(threading.current_thread().name)
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small()
    yield
    pieces.PIECE_CHARACTERS, pieces.BATCH_CHARACTERS = 1 << 14, 1 << 21
    tokenising.SHARD_CHARACTERS = 1 << 24


def small() -> None:
    pieces.PIECE_CHARACTERS, pieces.BATCH_CHARACTERS = PIECE, BATCH
    tokenising.SHARD_CHARACTERS = SHARD


def prepare(cache: Path, *, data=None, tokenizer=None, notices=None, check_stop=lambda: None, **kw):
    return prepare_tokens(
        data or Text(),
        tokenizer or Counting(),
        cache=cache,
        notice=(notices if notices is not None else []).append,
        check_stop=check_stop,
        **kw,
    )


def contents(splits: dict[str, TokenSplit]) -> dict[str, tuple[bytes, int, int | None, str]]:
    found = {}
    for name, split in splits.items():
        entry = split.shards[0].path.parent
        sha256 = json.loads((entry / "meta.json").read_text())["splits"][name]["sha256"]
        content = split.shards[0].path.read_bytes()
        found[name] = (content, split.documents, split.n_bytes, sha256)
    return found


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_resumed_tokenising import Text, prepare, small
small()
prepare(Path({cache!r}), data=Text(wait_after={wait_after}))
"""


def kill_after(cache: Path, characters: int, *, finished: int) -> Path:
    """Kill a real process that has read so much; return the folder it leaves."""
    code = CHILD.format(tests=str(Path(__file__).parent), cache=str(cache), wait_after=characters)
    process = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    try:
        while True:
            journals = list(cache.glob("tokens/.*-partial/train.finished.jsonl"))
            if journals and journals[0].read_bytes().count(b"\n") >= finished:
                break
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    (partial,) = cache.glob("tokens/.*-partial")
    return partial


def torn_line(partial: Path) -> None:
    with (partial / "train.finished.jsonl").open("ab") as file:
        file.write(b'{"n_tokens": 20')


def ids_without_line(partial: Path) -> None:
    with (partial / "train.bin").open("ab") as file:
        file.write(b"garbage")


def nothing(partial: Path) -> None:
    del partial


@pytest.mark.parametrize("damage", [nothing, torn_line, ids_without_line])
def test_a_killed_process_is_continued_and_the_bytes_are_those_of_one_that_was_not(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    whole, all_of_it = Counting(), Text()
    expected = contents(prepare(tmp_path / "whole", data=all_of_it, tokenizer=whole))
    damage(kill_after(tmp_path / "killed", 30_000, finished=10))
    notices: list[str] = []
    rest = Counting()
    found = prepare(tmp_path / "killed", tokenizer=rest, notices=notices)
    assert contents(found) == expected
    assert rest.encoded <= whole.encoded - 10 * SHARD
    assert "continues after" in notices[0] and len(notices) == 1
    entry = found["train"].shards[0].path.parent
    left = {path.name for path in entry.iterdir()}
    assert left == {"train.bin", "validation.bin", "meta.json", "checked.json"}
    assert not list(entry.parent.glob(".*"))


def test_a_finished_shard_that_is_not_what_it_was_is_tokenised_again(tmp_path: Path) -> None:
    whole = Counting()
    expected = contents(prepare(tmp_path / "whole", tokenizer=whole))
    partial = kill_after(tmp_path / "killed", 30_000, finished=10)
    content = bytearray((partial / "train.bin").read_bytes())
    content[3 * 2 * SHARD] ^= 1  # in the third shard or the fourth
    (partial / "train.bin").write_bytes(content)
    rest = Counting()
    assert contents(prepare(tmp_path / "killed", tokenizer=rest)) == expected
    assert whole.encoded - 4 * SHARD - 4 * BATCH <= rest.encoded < whole.encoded


def test_other_text_or_another_tokenizer_keeps_nothing(tmp_path: Path) -> None:
    kill_after(tmp_path, 30_000, finished=10)
    data, tokenizer = Text(), Counting()
    data.fingerprint = "other"
    prepare(tmp_path, data=data, tokenizer=tokenizer)
    assert tokenizer.encoded == sum(len(text) for texts in data.texts.values() for text in texts)


def test_every_stop_is_continued(tmp_path: Path) -> None:
    expected = contents(prepare(tmp_path / "whole"))
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls % 12 == 0:
            raise KeyboardInterrupt

    for stops in range(200):  # noqa: B007
        try:
            found = prepare(tmp_path / "stopped", check_stop=stop)
            break
        except KeyboardInterrupt:
            continue
    assert stops > 5
    assert contents(found) == expected


def test_the_text_after_any_place_is_the_rest(tmp_path: Path) -> None:
    del tmp_path
    batches = list(batches_of_parts(parts_of(Text(), "train")))
    place = Place()
    for number, batch in enumerate(batches, 1):
        documents = sum(piece.ends_document for piece in batch)
        last = [number for number, piece in enumerate(batch, 1) if piece.ends_document][-1:]
        place = place.moved(
            documents=documents,
            characters=sum(len(piece.text) for piece in batch[last[0] if last else 0 :]),
            n_characters=sum(len(piece.text) for piece in batch),
        )
        rest = batches_of_parts(parts_after(parts_of(Text(), "train"), place))
        assert list(rest) == batches[number:]


def test_threads_encode_and_the_order_is_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tokenising, "_usable_cores", lambda: 3)
    tokenizer = Counting()
    found = contents(prepare(tmp_path, tokenizer=tokenizer))
    assert len(tokenizer.threads) > 1
    ids = np.frombuffer(found["train"][0], "<u2")
    expected = b"".join(text.encode() + b"\0" for text in Text().texts["train"])
    assert bytes(np.where(ids == 256, 0, ids).astype(np.uint8)) == expected


def test_a_finished_cache_opens_without_being_read_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = prepare(tmp_path)["train"].shards[0].path.parent
    read: list[str] = []
    real = cache_entry._verify

    def verify(path: Path, *arguments, **options) -> None:
        read.append(path.name)
        real(path, *arguments, **options)

    monkeypatch.setattr(cache_entry, "_verify", verify)
    data = Text()
    prepare(tmp_path, data=data)
    assert (read, data.asked) == ([], [])
    prepare(tmp_path, verify=True)
    assert sorted(read) == ["train.bin", "validation.bin"]
    read.clear()
    content = (entry / "train.bin").read_bytes()
    (entry / "train.bin").write_bytes(content)
    prepare(tmp_path)
    assert sorted(read) == ["train.bin", "validation.bin"]
    (entry / "train.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    notices: list[str] = []
    assert contents(prepare(tmp_path, notices=notices))["train"][0] == content
    assert "damaged" in notices[0]
