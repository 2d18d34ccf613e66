"""The token cache: every split of a text tokenised once, kept on disk, memory-mapped when read.

An entry is a directory ``<cache>/tokens/<fingerprint>/`` with one ``<split>.bin`` per split
(little-endian unsigned integers, an end-of-text token after each document) and ``meta.json``. It
appears by one rename, so that a reader sees it whole or not at all; a lock lets one process build
while others wait.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmforge.data.cache_entry import Meta, StoredFile, cached, mapped
from llmforge.data.shards import TokenSplit, shard_splits
from llmforge.interfaces import Data, TokenData, Tokenizer, TokenShard
from llmforge.progress import track

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class _SplitMeta:
    n_tokens: int
    n_bytes: int
    documents: int
    dtype: str
    sha256: str

    @property
    def file(self) -> StoredFile:
        """Return what the file of the split must be."""
        return StoredFile(self.n_tokens * np.dtype(self.dtype).itemsize, self.sha256)


def token_fingerprint(data: Data, tokenizer: Tokenizer) -> str:
    """Return the name of the cache entry for this text under this tokenizer."""
    parts = [FORMAT_VERSION, data.fingerprint, list(data.splits)]
    parts += [tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.eos_id]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def prepare_tokens(
    data: Data | TokenData,
    tokenizer: Tokenizer,
    *,
    cache: Path,
    notice: Callable[[str], None],
    check_stop: Callable[[], None],
) -> dict[str, TokenSplit]:
    """Return every split of ``data`` as tokens, from the cache or tokenised now.

    Data that is tokens already is checked and stays where it is. What is tokenised is safe for
    several processes at once and after a kill at any instant: a damaged entry is detected by size
    and hash and built again.

    Args:
        data: text, or tokens.
        tokenizer: what turns text into ids, and knows the ids there are.
        cache: root of the cache; entries are in ``tokens`` below it.
        notice: told when an entry was damaged, or another process is waited for.
        check_stop: called every few megabytes; what it raises ends the work cleanly.

    Raises:
        DataError: the cache cannot be written, a document cannot be read, or the data's tokens
            are not the tokenizer's.
    """
    if isinstance(data, TokenData):
        return shard_splits(data, tokenizer, cache=cache, check_stop=check_stop)
    fingerprint = token_fingerprint(data, tokenizer)
    entry = cache / "tokens" / fingerprint

    def build(directory: Path) -> Meta:
        return {
            "format_version": FORMAT_VERSION,
            "data": data.fingerprint,
            "tokenizer": tokenizer.fingerprint,
            "splits": {
                split: asdict(_write_split(data, tokenizer, split, directory, check_stop))
                for split in data.splits
            },
        }

    meta = cached(
        entry,
        fingerprint=fingerprint,
        build=build,
        files=lambda meta: {
            f"{name}.bin": split.file for name, split in _split_metas(meta).items()
        },
        notice=notice,
        check_stop=check_stop,
    )
    return {name: _map(entry / f"{name}.bin", split) for name, split in _split_metas(meta).items()}


def _split_metas(meta: Meta) -> dict[str, _SplitMeta]:
    return {name: _SplitMeta(**values) for name, values in meta["splits"].items()}


def _map(path: Path, meta: _SplitMeta) -> TokenSplit:
    shard = TokenShard(name=path.name, path=path, ids=mapped(path, np.dtype(meta.dtype)))
    return TokenSplit(shards=(shard,), n_bytes=meta.n_bytes, documents=meta.documents)


def _write_split(
    data: Data,
    tokenizer: Tokenizer,
    split: str,
    directory: Path,
    check_stop: Callable[[], None],
) -> _SplitMeta:
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    n_tokens = n_bytes = documents = 0
    digest = hashlib.sha256()
    size = getattr(data, "characters", {}).get(split)
    with (
        (directory / f"{split}.bin").open("wb") as file,
        track(f"tokenising {split}", total=size, unit="characters") as task,
    ):
        for batch in batches_of_pieces(data.iter_text(split)):
            check_stop()
            texts = [piece.text for piece in batch]
            ends = [piece.ends_document for piece in batch]
            ids = _concatenate(tokenizer, texts, ends, dtype)
            block = ids.tobytes()
            file.write(block)
            digest.update(block)
            n_tokens += len(ids)
            n_bytes += sum(len(text.encode("utf-8")) for text in texts)
            documents += sum(ends)
            task.advance(sum(map(len, texts)))
    return _SplitMeta(
        n_tokens=n_tokens,
        n_bytes=n_bytes,
        documents=documents,
        dtype=dtype.str,
        sha256=digest.hexdigest(),
    )


def _concatenate(
    tokenizer: Tokenizer, texts: list[str], ends: list[bool], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the ids of ``texts`` in one array, ``eos_id`` after each that ends a document."""

    def parts() -> Iterator[list[int]]:
        for ids, end in zip(tokenizer.encode_batch(texts), ends, strict=True):
            yield ids
            if end and tokenizer.eos_id is not None:
                yield [tokenizer.eos_id]

    return np.concatenate([np.asarray(ids, dtype=dtype) for ids in parts()])


PIECE_CHARACTERS = 1 << 14
BATCH_CHARACTERS = 1 << 21


@dataclass(frozen=True)
class Piece:
    """A document, or a part of one that is too long to be encoded at once."""

    text: str
    ends_document: bool


def batches_of_pieces(documents: Iterable[str]) -> Iterator[list[Piece]]:
    """Yield the documents in batches of about two million characters.

    A document longer than ``PIECE_CHARACTERS`` is cut before a space that follows a letter or
    digit (where there is none, anywhere), so that a file of gigabytes neither runs on one core nor
    holds a signal back. Byte-level tokenizers never join across such a place: the tokens are those
    of the whole document.
    """
    batch: list[Piece] = []
    size = 0
    for document in documents:
        for piece in _cut(document):
            batch.append(piece)
            size += len(piece.text)
            if size >= BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _cut(document: str) -> Iterator[Piece]:
    start = 0
    while len(document) - start > PIECE_CHARACTERS:
        end = _boundary(document, start, start + PIECE_CHARACTERS)
        yield Piece(document[start:end], ends_document=False)
        start = end
    yield Piece(document[start:], ends_document=True)


def _boundary(document: str, start: int, limit: int) -> int:
    space = document.rfind(" ", start + 1, limit)
    while space > start and not document[space - 1].isalnum():
        space = document.rfind(" ", start + 1, space)
    return space if space > start else limit
