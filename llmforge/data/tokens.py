"""The token cache: every split of a text tokenised once, kept on disk, memory-mapped when read.

An entry is a directory ``<cache>/tokens/<fingerprint>/`` with one ``<split>.bin`` per split
(little-endian unsigned integers, an end-of-text token after each document) and ``meta.json``. It
appears by one rename, so that a reader sees it whole or not at all; a lock lets one process build
while others wait.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmforge.data.shards import TokenSplit, shard_splits
from llmforge.errors import DataError
from llmforge.file_lock import build_lock
from llmforge.interfaces import Data, Progress, TokenData, Tokenizer, TokenShard
from llmforge.progress import track

FORMAT_VERSION = 1
_META = "meta.json"
_HASH_BLOCK = 1 << 24


@dataclass(frozen=True, kw_only=True)
class _SplitMeta:
    n_tokens: int
    n_bytes: int
    documents: int
    dtype: str
    sha256: str


class _DamagedError(Exception):
    """A cache entry that is not what its metadata says."""


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
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        found = _read(entry, fingerprint, _silent, check_stop)
        if found is not None:
            return found
        with build_lock(entry.with_suffix(".lock"), notice=notice, check_stop=check_stop):
            found = _read(entry, fingerprint, notice, check_stop)
            if found is None:
                _build(data, tokenizer, entry, fingerprint, check_stop)
                found = _open(entry, fingerprint, check_stop)
    except OSError as error:
        raise DataError(
            f"the token cache {entry.parent} cannot be used: {error}",
            remedy="free space there, or set FORGE_CACHE to another directory",
        ) from error
    return found


def _silent(text: str) -> None:
    """Say nothing: damage is reported once, under the lock."""
    del text


def _read(
    entry: Path,
    fingerprint: str,
    notice: Callable[[str], None],
    check_stop: Callable[[], None],
) -> dict[str, TokenSplit] | None:
    """Return the entry, or None when there is none or it is damaged."""
    if not entry.exists():
        return None
    try:
        return _open(entry, fingerprint, check_stop)
    except _DamagedError as damage:
        notice(f"token cache {entry} is damaged ({damage}): tokenising again")
        return None


def _open(entry: Path, fingerprint: str, check_stop: Callable[[], None]) -> dict[str, TokenSplit]:
    """Verify and map an entry.

    Raises:
        _DamagedError: it is not what ``meta.json`` says.
    """
    try:
        meta = json.loads((entry / _META).read_text(encoding="utf-8"))
        if meta["fingerprint"] != fingerprint:
            raise _DamagedError(f"{_META} belongs to another entry")
        splits = {name: _SplitMeta(**values) for name, values in meta["splits"].items()}
        size = sum(split.n_tokens * np.dtype(split.dtype).itemsize for split in splits.values())
        with track("checking the token cache", total=size) as task:
            return {
                name: _map(entry / f"{name}.bin", split, check_stop, moved=task.advance)
                for name, split in splits.items()
            }
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"{type(error).__name__}: {error}") from error


def _map(
    path: Path, meta: _SplitMeta, check_stop: Callable[[], None], *, moved: Progress
) -> TokenSplit:
    dtype = np.dtype(meta.dtype)
    size, expected = path.stat().st_size, meta.n_tokens * dtype.itemsize
    if size != expected:
        raise _DamagedError(f"{path.name} has {size} bytes instead of {expected}")
    if _sha256(path, check_stop, moved=moved) != meta.sha256:
        raise _DamagedError(f"{path.name} does not hold what was written")
    # An empty file cannot be mapped.
    empty = meta.n_tokens == 0
    tokens = np.empty(0, dtype) if empty else np.memmap(path, dtype=dtype, mode="r")
    shard = TokenShard(name=path.name, path=path, ids=tokens.view(np.ndarray))
    return TokenSplit(shards=(shard,), n_bytes=meta.n_bytes, documents=meta.documents)


def _sha256(path: Path, check_stop: Callable[[], None], *, moved: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
            moved(len(block))
            check_stop()
    return digest.hexdigest()


def _build(
    data: Data,
    tokenizer: Tokenizer,
    entry: Path,
    fingerprint: str,
    check_stop: Callable[[], None],
) -> None:
    """Write the entry beside its place and rename it there. The caller holds the lock."""
    prefix = f".{fingerprint}-"
    for leftover in entry.parent.glob(f"{prefix}*"):  # of builds that were killed
        shutil.rmtree(leftover)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=entry.parent))
    try:
        splits = {
            split: asdict(_write_split(data, tokenizer, split, work, check_stop))
            for split in data.splits
        }
        meta: Mapping[str, Any] = {
            "format_version": FORMAT_VERSION,
            "fingerprint": fingerprint,
            "data": data.fingerprint,
            "tokenizer": tokenizer.fingerprint,
            "splits": splits,
        }
        (work / _META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        if entry.exists():  # damaged; those who have it mapped keep what they have
            shutil.rmtree(entry)
        work.rename(entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
