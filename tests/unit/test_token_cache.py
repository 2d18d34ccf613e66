"""The token cache: complete or absent, rebuilt when damaged, shared between processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from llmforge.data import tokens as tokens_module
from llmforge.data.pieces import BATCH_CHARACTERS, PIECE_CHARACTERS, batches_of_pieces
from llmforge.data.shards import TokenSplit
from llmforge.data.tokens import (
    prepare_tokens,
    token_fingerprint,
)
from llmforge.errors import DataError


class Documents:
    """Data of fixed documents that counts how often it is read."""

    description = "documents of a test"

    def __init__(self, train: Sequence[str], validation: Sequence[str] = ("é",)) -> None:
        self.texts = {"train": list(train), "validation": list(validation)}
        self.splits = tuple(self.texts)
        self.fingerprint = repr(self.texts)
        self.reads = 0

    def iter_text(self, split: str) -> Iterator[str]:
        self.reads += 1
        yield from self.texts[split]


class Characters:
    """A tokenizer with one id per character."""

    fingerprint = "characters"

    def __init__(self, vocab_size: int = 1000, eos_id: int | None = 999) -> None:
        self.vocab_size = vocab_size
        self.eos_id = eos_id

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(index) for index in ids if index != self.eos_id)

    def save(self, directory: Path) -> None:
        del directory


def prepare(cache: Path, data=None, tokenizer=None, notices=None, check_stop=lambda: None):
    return prepare_tokens(
        data or Documents(["ab", "c"]),
        tokenizer or Characters(),
        cache=cache,
        notice=(notices if notices is not None else []).append,
        check_stop=check_stop,
    )


def entry_of(splits: dict[str, TokenSplit]) -> Path:
    return splits["train"].shards[0].path.parent


def ids_of(split: TokenSplit) -> list[int]:
    (shard,) = split.shards
    return shard.ids.tolist()


def test_documents_are_joined_with_the_end_of_text_token(tmp_path):
    splits = prepare(tmp_path)
    assert ids_of(splits["train"]) == [97, 98, 999, 99, 999]
    assert ids_of(splits["validation"]) == [233, 999]


def test_counts_are_of_tokens_documents_and_utf8_bytes(tmp_path):
    split = prepare(tmp_path)["validation"]
    assert (split.n_tokens, split.n_bytes, split.documents) == (2, 2, 1)


def test_without_an_end_of_text_token_nothing_is_added(tmp_path):
    splits = prepare(tmp_path, tokenizer=Characters(eos_id=None))
    assert ids_of(splits["train"]) == [97, 98, 99]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_ids_take_two_bytes_where_they_fit(tmp_path, vocab_size, dtype):
    splits = prepare(tmp_path, tokenizer=Characters(vocab_size=vocab_size))
    assert splits["train"].shards[0].ids.dtype == dtype
    assert splits["train"].shards[0].path.stat().st_size == 5 * np.dtype(dtype).itemsize


def test_a_second_call_reads_the_cache(tmp_path):
    prepare(tmp_path)
    data = Documents(["ab", "c"])
    assert ids_of(prepare(tmp_path, data)["train"]) == [97, 98, 999, 99, 999]
    assert data.reads == 0


def test_other_text_or_another_tokenizer_makes_another_entry(tmp_path):
    data, tokenizer = Documents(["ab"]), Characters()
    names = {
        token_fingerprint(data, tokenizer),
        token_fingerprint(Documents(["abc"]), tokenizer),
        token_fingerprint(data, Characters(vocab_size=2000)),
        token_fingerprint(data, Characters(eos_id=None)),
    }
    assert len(names) == 4


def truncate(entry: Path) -> None:
    path = entry / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(entry: Path) -> None:
    path = entry / "train.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def lose_a_split(entry: Path) -> None:
    (entry / "validation.bin").unlink()


def lose_the_metadata(entry: Path) -> None:
    (entry / "meta.json").unlink()


def garble_the_metadata(entry: Path) -> None:
    (entry / "meta.json").write_text("{")


def take_the_metadata_of_another(entry: Path) -> None:
    meta = json.loads((entry / "meta.json").read_text())
    (entry / "meta.json").write_text(json.dumps({**meta, "fingerprint": "other"}))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_bit,
        lose_a_split,
        lose_the_metadata,
        garble_the_metadata,
        take_the_metadata_of_another,
    ],
)
def test_a_damaged_entry_is_built_again_with_one_notice(tmp_path, damage):
    damage(entry_of(prepare(tmp_path)))
    notices: list[str] = []
    splits = prepare(tmp_path, notices=notices)
    assert ids_of(splits["train"]) == [97, 98, 999, 99, 999]
    (notice,) = notices
    assert "damaged" in notice
    assert prepare(tmp_path, notices=notices)
    assert len(notices) == 1


def test_a_stop_leaves_no_partial_entry(tmp_path):
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, check_stop=stop)
    assert [path.suffix for path in (tmp_path / "tokens").iterdir()] == [".lock"]


def test_a_stop_is_asked_for_between_batches_of_a_long_document(tmp_path):
    asked = []
    document = "word " * (3 * BATCH_CHARACTERS // 5)
    prepare(tmp_path, Documents([document]), check_stop=lambda: asked.append(1))
    assert len(asked) >= 4


def test_long_documents_are_cut_without_losing_a_character():
    documents = ["x" * 10, "one word .\n" * PIECE_CHARACTERS, "y" * (2 * PIECE_CHARACTERS + 1)]
    pieces = [piece for batch in batches_of_pieces(documents) for piece in batch]
    assert "".join(piece.text for piece in pieces) == "".join(documents)
    assert sum(piece.ends_document for piece in pieces) == 3
    assert all(len(piece.text) <= PIECE_CHARACTERS for piece in pieces)
    inner = [piece.text for piece in pieces if piece.text[0] == " "]
    assert len(inner) > 4
    assert all(text.startswith((" word", " .")) for text in inner)


def test_an_empty_split_is_kept_as_empty(tmp_path):
    for _ in range(2):
        split = prepare(tmp_path, Documents(["a"], validation=[]))["validation"]
        assert (split.n_tokens, split.documents, ids_of(split)) == (0, 0, [])


def test_a_cache_that_cannot_be_written_is_a_data_error(tmp_path):
    (tmp_path / "tokens").write_text("a file in the way")
    with pytest.raises(DataError, match=r"token cache.*\n.*FORGE_CACHE"):
        prepare(tmp_path)


SLOW_BUILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_token_cache import Characters, Documents, ids_of
from llmforge.data.tokens import prepare_tokens

class Slow(Documents):
    def iter_text(self, split):
        for text in self.texts[split]:
            Path({mark!r}).write_text("reading")
            time.sleep({pause})
            yield text

splits = prepare_tokens(Slow(["ab", "c"]), Characters(), cache=Path({cache!r}),
                        notice=print, check_stop=lambda: None)
print(ids_of(splits["train"]))
"""


def start_slow_build(cache: Path, *, pause: float) -> subprocess.Popen[str]:
    mark = cache / "mark"
    code = SLOW_BUILD.format(
        tests=str(Path(__file__).parent), mark=str(mark), cache=str(cache), pause=pause
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    while not mark.exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_a_killed_build_leaves_nothing_that_is_taken_for_an_entry(tmp_path):
    process = start_slow_build(tmp_path, pause=60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    entry = entry_of(prepare(tmp_path))
    names = sorted(path.name for path in entry.parent.iterdir())
    assert names == sorted([entry.name, f"{entry.name}.lock"])


def test_a_second_process_waits_for_the_first_and_takes_its_result(tmp_path):
    process = start_slow_build(tmp_path, pause=0.5)
    data, notices = Documents(["ab", "c"]), []
    splits = prepare(tmp_path, data, notices=notices)
    output, _ = process.communicate()
    assert ids_of(splits["train"]) == json.loads(output)
    assert data.reads == 0
    assert notices == ["another process is preparing the same data: waiting for it"]


def test_a_new_format_does_not_read_old_entries(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.setattr(tokens_module, "FORMAT_VERSION", 2)
    data = Documents(["ab", "c"])
    prepare(tmp_path, data)
    assert data.reads == 2
