"""Data that is tokens already: checked once, then read where it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmforge.errors import DataError
from llmforge.interfaces import Progress, TokenData, Tokenizer, TokenShard
from llmforge.progress import track
from llmforge.rundir.atomic import write_json

FORMAT_VERSION = 1
_CHUNK = 1 << 24


@dataclass(frozen=True, kw_only=True)
class TokenSplit:
    """Token ids in one or several memory-mapped files.

    Attributes:
        shards: the files in order; text that llmforge tokenised has one.
        n_bytes: UTF-8 bytes of the text, what ``bits_per_byte`` is measured over; None when the
            text is not known.
        documents: number of documents.
        divided_at: the id that divides windows into documents which do not see each other, by
            beginning each; None where windows are whole.
    """

    shards: tuple[TokenShard, ...]
    n_bytes: int | None
    documents: int
    divided_at: int | None = None

    @property
    def n_tokens(self) -> int:
        """Number of ids, end-of-text tokens included."""
        return sum(len(shard.ids) for shard in self.shards)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids from ``start`` to ``stop`` as if all shards were one, int64."""
        found = []
        for shard in self.shards:
            found.append(shard.ids[max(0, start) : max(0, stop)].astype(np.int64))
            start, stop = start - len(shard.ids), stop - len(shard.ids)
        return np.concatenate(found) if found else np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """What reading all ids of a shard found."""

    lowest: int
    highest: int
    documents: int


def shard_splits(
    data: TokenData, tokenizer: Tokenizer, *, cache: Path, check_stop: Callable[[], None]
) -> dict[str, TokenSplit]:
    """Return every split of ``data``; no id is copied.

    Every id is read once to see that the vocabulary has it. What was found is kept in the cache
    under the data's fingerprint, so that later starts need not read all of it again.

    Args:
        data: the shards.
        tokenizer: says the vocabulary and the end-of-text token.
        cache: root of the cache; results are in ``tokens`` below it.
        check_stop: called every few megabytes; what it raises ends the work.

    Raises:
        DataError: a shard holds no ids, or one that the vocabulary does not have; or data and
            tokenizer disagree. The message names the shard.
    """
    eos_id = _end_of_text(data, tokenizer)
    path = cache / "tokens" / f"{_fingerprint(data, eos_id)}.shards.json"
    known = _read(path)
    found: dict[str, _Scan] = {}
    splits = {}
    shards = {split: tuple(data.shards(split)) for split in data.splits}
    with track("looking at token shards", total=_unknown(shards, known), unit="ids") as task:
        for key, shard in _keyed(shards):
            _check_type(shard)
            scan = known.get(key) or _scan(shard, eos_id, check_stop, moved=task.advance)
            _check_range(shard, scan, data, tokenizer)
            found[key] = scan
    for split, own in shards.items():
        splits[split] = TokenSplit(
            shards=own,
            n_bytes=None,
            documents=sum(found[key].documents for key, _ in _keyed({split: own})),
        )
    if found != known:
        _write(path, found)
    return splits


def _keyed(shards: Mapping[str, Sequence[TokenShard]]) -> Iterator[tuple[str, TokenShard]]:
    for split, own in shards.items():
        for index, shard in enumerate(own):
            yield f"{split}/{index}", shard


def _unknown(shards: Mapping[str, Sequence[TokenShard]], known: Mapping[str, _Scan]) -> int:
    return sum(shard.ids.size for key, shard in _keyed(shards) if key not in known)


def _end_of_text(data: TokenData, tokenizer: Tokenizer) -> int | None:
    if data.eos_id is None:
        return tokenizer.eos_id
    if tokenizer.eos_id is not None and tokenizer.eos_id != data.eos_id:
        raise DataError(
            f"the data ends documents with the id {data.eos_id}, the tokenizer with "
            f"{tokenizer.eos_id}",
            remedy="use the tokenizer the shards were made with",
        )
    return data.eos_id


def _fingerprint(data: TokenData, eos_id: int | None) -> str:
    parts = [FORMAT_VERSION, data.fingerprint, list(data.splits), eos_id]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _check_type(shard: TokenShard) -> None:
    ids = shard.ids
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(
            f"{shard.name} holds {ids.dtype} of shape {list(ids.shape)}, not a row of token ids"
        )


def _scan(
    shard: TokenShard, eos_id: int | None, check_stop: Callable[[], None], *, moved: Progress
) -> _Scan:
    lowest, highest, documents = 0, -1, 0
    for start in range(0, len(shard.ids), _CHUNK):
        check_stop()
        chunk = shard.ids[start : start + _CHUNK]
        lowest = min(lowest, int(chunk.min()))
        highest = max(highest, int(chunk.max()))
        if eos_id is not None:
            documents += int(np.count_nonzero(chunk == eos_id))
        moved(len(chunk))
    return _Scan(lowest=lowest, highest=highest, documents=documents)


def _check_range(shard: TokenShard, scan: _Scan, data: TokenData, tokenizer: Tokenizer) -> None:
    size = min(tokenizer.vocab_size, data.vocab_size or tokenizer.vocab_size)
    wrong = scan.lowest if scan.lowest < 0 else scan.highest
    if scan.lowest < 0 or scan.highest >= size:
        raise DataError(
            f"{shard.name} has the token id {wrong}, and the vocabulary has the ids 0 to "
            f"{size - 1}",
            remedy="use the tokenizer the shards were made with; check the vocabulary's size, and "
            "the number type of raw files",
        )


def _read(path: Path) -> dict[str, _Scan]:
    """Return what an earlier start found; nothing when it is not there or not whole."""
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: _Scan(**values) for key, values in body.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, found: dict[str, _Scan]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {key: asdict(scan) for key, scan in found.items()}, durable=False)
    except OSError as error:
        raise DataError(
            f"the token cache {path.parent} cannot be used: {error}",
            remedy="free space there, or set FORGE_CACHE to another directory",
        ) from error
