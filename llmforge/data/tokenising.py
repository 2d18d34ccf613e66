"""Tokenising a split into one file, on all cores, so that a kill costs only the last seconds.

Beside the file grows a journal of what is finished: after every sixteen million characters their
ids are forced to the disk, then a line with their hash and the place they end at. Another start
keeps what the hashes confirm and continues there. Only a few batches of text are in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from llmforge.data.cache_entry import FINISHED
from llmforge.data.pieces import Piece, Place, batches_of_parts, parts_after, parts_of
from llmforge.interfaces import ArrayTokenizer, Data, Tokenizer
from llmforge.progress import track
from llmforge.rundir.atomic import append_line

SHARD_CHARACTERS = 1 << 24
_HASH_BLOCK = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Finished ids: what stands in the journal.

    Attributes:
        n_tokens: ids from the end of the shard before to the end of this one.
        n_bytes: UTF-8 bytes of their text.
        n_characters: its characters.
        documents: that end before the end of this shard, since the beginning of the split.
        characters: after the last of them.
        sha256: of the ids in the file.
    """

    n_tokens: int
    n_bytes: int
    n_characters: int
    documents: int
    characters: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """What the file of a split holds, when it is complete."""

    n_tokens: int
    n_bytes: int
    documents: int
    sha256: str


def tokenise_split(
    data: Data,
    tokenizer: Tokenizer,
    split: str,
    directory: Path,
    *,
    dtype: np.dtype[Any],
    notice: Callable[[str], None],
    check_stop: Callable[[], None],
) -> Tokenised:
    """Write ``<split>.bin`` into ``directory``, or what is missing of it.

    Args:
        data: its fingerprint and the tokenizer's are those that the directory was started with.
        tokenizer: used by several threads where it is an :class:`ArrayTokenizer`.
        split: of the data.
        directory: has the file and its journal of an earlier start, or not.
        dtype: of the ids.
        notice: told when an earlier start is continued.
        check_stop: called for every batch.

    Raises:
        DataError: a document cannot be read.
        OSError: the disk does not take it.
    """
    size = getattr(data, "characters", {}).get(split)
    with (
        (directory / f"{split}.bin").open("ab+") as file,
        (directory / f"{split}{FINISHED}").open("ab+", buffering=0) as journal,
        track(f"tokenising {split}", total=size, unit="characters") as task,
    ):
        writer = _Writer(file, journal, itemsize=dtype.itemsize)
        if writer.n_characters:
            notice(
                f"tokenising {split} continues after {writer.n_characters:,} characters, which an "
                "earlier start finished"
            )
            task.advance(writer.n_characters)
        parts = parts_after(parts_of(data, split), writer.place)
        for block in _encoded(_stopping(batches_of_parts(parts), check_stop), tokenizer, dtype):
            writer.write(block)
            task.advance(block.n_characters)
        return writer.finish()


class _Writer:
    """The file of a split and its journal; opened, both end with the last finished shard.

    Attributes:
        n_characters: of text whose ids are in the file.
        place: where that text ends.
    """

    def __init__(self, file: BinaryIO, journal: BinaryIO, *, itemsize: int) -> None:
        self._file = file
        self._journal = journal
        self._whole = hashlib.sha256()
        self._n_tokens = self._n_bytes = self.n_characters = 0
        self.place = Place()
        self._read_finished(itemsize)
        self._begin_shard()

    def _read_finished(self, itemsize: int) -> None:
        self._journal.seek(0)
        self._file.seek(0)
        kept = 0
        for line in self._journal.read().splitlines(keepends=True):
            try:
                shard = Shard(**json.loads(line))
            except (ValueError, TypeError):  # cut off by the kill
                break
            whole = self._whole.copy()
            found = _hash(self._file, shard.n_tokens * itemsize, whole)
            if found != shard.sha256 or not line.endswith(b"\n"):
                break
            self._whole = whole
            self._n_tokens += shard.n_tokens
            self._n_bytes += shard.n_bytes
            self.n_characters += shard.n_characters
            self.place = Place(documents=shard.documents, characters=shard.characters)
            kept += len(line)
        self._journal.truncate(kept)
        self._file.truncate(self._n_tokens * itemsize)
        self._file.seek(0, os.SEEK_END)

    def _begin_shard(self) -> None:
        self._digest = hashlib.sha256()
        self._start = (self._n_tokens, self._n_bytes, self.n_characters)

    def write(self, block: _Block) -> None:
        """Append ids; now and then finish a shard."""
        self._file.write(block.ids.data)
        self._digest.update(block.ids.data)
        self._whole.update(block.ids.data)
        self._n_tokens += len(block.ids)
        self._n_bytes += block.n_bytes
        self.n_characters += block.n_characters
        self.place = self.place.moved(
            documents=block.documents,
            characters=block.characters,
            n_characters=block.n_characters,
        )
        if self.n_characters - self._start[2] >= SHARD_CHARACTERS:
            self._finish_shard()

    def _finish_shard(self) -> None:
        """Force the ids to the disk, and then say so in the journal."""
        self._file.flush()
        os.fsync(self._file.fileno())
        n_tokens, n_bytes, n_characters = self._start
        shard = Shard(
            n_tokens=self._n_tokens - n_tokens,
            n_bytes=self._n_bytes - n_bytes,
            n_characters=self.n_characters - n_characters,
            documents=self.place.documents,
            characters=self.place.characters,
            sha256=self._digest.hexdigest(),
        )
        append_line(self._journal, json.dumps(asdict(shard)).encode() + b"\n")
        os.fsync(self._journal.fileno())
        self._begin_shard()

    def finish(self) -> Tokenised:
        """Finish the last shard and return what all of them hold."""
        if self._n_tokens > self._start[0]:
            self._finish_shard()
        return Tokenised(
            n_tokens=self._n_tokens,
            n_bytes=self._n_bytes,
            documents=self.place.documents,
            sha256=self._whole.hexdigest(),
        )


def _hash(file: BinaryIO, size: int, whole: Any) -> str:
    """Return the hash of the next ``size`` bytes, which ``whole`` is updated with too."""
    digest = hashlib.sha256()
    while size and (block := file.read(min(size, _HASH_BLOCK))):
        digest.update(block)
        whole.update(block)
        size -= len(block)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Block:
    """The ids of a batch of pieces, and what is to be known of its text.

    Attributes:
        documents: that end in it.
        characters: after the last of these ends.
    """

    ids: NDArray[Any]
    n_bytes: int
    n_characters: int
    documents: int
    characters: int


def _stopping(
    batches: Iterable[list[Piece]], check_stop: Callable[[], None]
) -> Iterator[list[Piece]]:
    for batch in batches:
        check_stop()
        yield batch


def _encoded(
    batches: Iterator[list[Piece]], tokenizer: Tokenizer, dtype: np.dtype[Any]
) -> Iterator[_Block]:
    """Yield the ids of each batch in order; threads encode a few batches ahead."""
    if not isinstance(tokenizer, ArrayTokenizer):
        yield from (_block(batch, tokenizer.encode_batch, tokenizer, dtype) for batch in batches)
        return
    threads = _usable_cores()
    ahead: deque[Future[_Block]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="forge-tokenise") as pool:
        try:
            for batch in batches:
                ahead.append(pool.submit(_block, batch, tokenizer.encode_arrays, tokenizer, dtype))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _block(
    batch: list[Piece],
    encode: Callable[[list[str]], Sequence[Any]],
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
) -> _Block:
    """Encode a batch: the ids in one array, ``eos_id`` after each piece that ends a document."""
    texts = [piece.text for piece in batch]
    end = np.asarray([] if tokenizer.eos_id is None else [tokenizer.eos_id], dtype=dtype)
    parts: list[NDArray[Any]] = []
    documents = characters = 0
    for piece, ids in zip(batch, encode(texts), strict=True):
        parts.append(np.asarray(ids, dtype=dtype))
        characters += len(piece.text)
        if piece.ends_document:
            parts.append(end)
            documents, characters = documents + 1, 0
    return _Block(
        ids=np.concatenate(parts),
        n_bytes=sum(len(text) if text.isascii() else len(text.encode("utf-8")) for text in texts),
        n_characters=sum(map(len, texts)),
        documents=documents,
        characters=characters,
    )
