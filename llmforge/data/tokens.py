"""The token cache: every split of a text tokenised once, kept on disk, memory-mapped when read.

An entry is a directory ``<cache>/tokens/<fingerprint>/`` with one ``<split>.bin`` per split
(little-endian unsigned integers, an end-of-text token after each document) and ``meta.json``. It
appears by one rename, so that a reader sees it whole or not at all; a lock lets one process build
while others wait. What a killed process finished is kept beside it for the next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llmforge.data.cache_entry import Meta, StoredFile, cached, mapped
from llmforge.data.shards import TokenSplit, shard_splits
from llmforge.data.tokenising import tokenise_split
from llmforge.interfaces import Data, TokenData, Tokenizer, TokenShard

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
    verify: bool = False,
) -> dict[str, TokenSplit]:
    """Return every split of ``data`` as tokens, from the cache or tokenised now.

    Data that is tokens already is checked and stays where it is. What is tokenised is safe for
    several processes at once and after a kill at any instant: what is finished is kept and
    continued, and a damaged entry is detected and built again.

    Args:
        data: text, or tokens.
        tokenizer: what turns text into ids, and knows the ids there are.
        cache: root of the cache; entries are in ``tokens`` below it.
        notice: told when an entry was damaged, or another process is waited for.
        check_stop: called every few megabytes; what it raises ends the work cleanly.
        verify: read and hash all of an entry, also where its files look as they did.

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
            "splits": {split: asdict(write(split, directory)) for split in data.splits},
        }

    def write(split: str, directory: Path) -> _SplitMeta:
        dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        written = tokenise_split(
            data,
            tokenizer,
            split,
            directory,
            dtype=dtype,
            notice=notice,
            check_stop=check_stop,
        )
        return _SplitMeta(dtype=dtype.str, **asdict(written))

    meta = cached(
        entry,
        fingerprint=fingerprint,
        build=build,
        files=lambda meta: {
            f"{name}.bin": split.file for name, split in _split_metas(meta).items()
        },
        notice=notice,
        check_stop=check_stop,
        resumable=True,
        verify=verify,
    )
    return {name: _map(entry / f"{name}.bin", split) for name, split in _split_metas(meta).items()}


def _split_metas(meta: Meta) -> dict[str, _SplitMeta]:
    return {name: _SplitMeta(**values) for name, values in meta["splits"].items()}


def _map(path: Path, meta: _SplitMeta) -> TokenSplit:
    shard = TokenShard(name=path.name, path=path, ids=mapped(path, np.dtype(meta.dtype)))
    return TokenSplit(shards=(shard,), n_bytes=meta.n_bytes, documents=meta.documents)
