"""Tokenised shards in splits: found, fetched, verified and mapped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge import RunContext, track
from llmforge.interfaces import TokenShard
from llmforge_plugins.data._files import checksum
from llmforge_plugins.data._parallel import in_parallel
from llmforge_plugins.data._patterns import SPLITS, fetched, find_files
from llmforge_plugins.data._remote import shown
from llmforge_plugins.data._shards import SUFFIXES, open_shard

_TABLE = "data.tokens"
_HASHED_AT_ONCE = 4
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class _File:
    """A shard on this machine."""

    name: str
    path: Path
    size: int
    sha256: str


class TokenShards:
    """Implements :class:`llmforge.interfaces.TokenData` over files of token ids.

    Args:
        files: the files of each split in order.
        options: those of ``[data.tokens]``.
        cache: where compressed shards are unpacked.

    Attributes:
        files: the files it reads.
        resolution: size and hash of every shard, so that a resume can say which one changed.
    """

    def __init__(self, files: Mapping[str, Sequence[_File]], options: Any, *, cache: Path) -> None:
        dtype = _raw_type(options)
        self._shards = {
            split: [_open(file, dtype, options.key, cache) for file in found]
            for split, found in files.items()
        }
        hashes = {split: [file.sha256 for file in found] for split, found in files.items()}
        rules: list[Any] = [dtype, options.key]
        if "validation" not in files and options.validation_fraction:
            rules.append(options.validation_fraction)
            self._shards |= _cut(self._shards["train"], options.validation_fraction)
        self.splits: Sequence[str] = tuple(split for split in SPLITS if split in self._shards)
        content = json.dumps(["tokens", hashes, rules])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        self.vocab_size: int | None = options.vocab_size
        self.eos_id: int | None = options.eos_id
        self.resolution = {
            "shards": {
                file.name: f"{file.size} bytes, sha256 {file.sha256[:16]}"
                for found in files.values()
                for file in found
            }
        }
        self.files = tuple(self.resolution["shards"])
        count = len(self.files)
        self.description = f"tokens, {count} file{'s' if count != 1 else ''}"

    def shards(self, split: str) -> Sequence[TokenShard]:
        """Return the shards of ``split``."""
        return self._shards[split]


def build(options: Any, run: RunContext) -> TokenShards:
    """Find the shards of all splits, fetch what is behind URLs, and map them.

    Raises:
        DataError: a pattern matches nothing, or a shard cannot be fetched or read.
    """
    sources = find_files(options, _TABLE, SUFFIXES, run)
    if options.max_files != -1:
        sources["train"] = sources["train"][: options.max_files]
    every = list(dict.fromkeys(source for found in sources.values() for source in found))
    here = dict(zip(every, fetched(every, run), strict=True))
    paths = list(here.values())
    with track("hashing token shards", total=sum(path.stat().st_size for path in paths)) as task:
        hashes = in_parallel(
            lambda path: checksum(path, cache=run.cache, moved=task.advance),
            paths,
            threads=_HASHED_AT_ONCE,
        )
    by_source = {
        source: _File(name=shown(source), path=path, size=path.stat().st_size, sha256=sha256)
        for (source, path), sha256 in zip(here.items(), hashes, strict=True)
    }
    files = {split: [by_source[source] for source in found] for split, found in sources.items()}
    data = TokenShards(files, options, cache=run.cache)
    _tell_changes(data.resolution["shards"], run)
    return data


def _tell_changes(now: Mapping[str, str], run: RunContext) -> None:
    """Name the shards that are not what they were when the run was started.

    Whether the run may continue is the core's to decide, by the fingerprint.
    """
    before: Mapping[str, str] = run.resolved.get("data", {}).get("shards", {})
    if not before:
        return
    kinds = {
        "changed": [name for name in now if before.get(name, now[name]) != now[name]],
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
    }
    for kind, names in kinds.items():
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            run.notice(f"shards {kind} since the run started: {', '.join(names[:_NAMED])}{more}")


def _raw_type(options: Any) -> str:
    if options.dtype != "auto":
        return str(options.dtype)
    return "uint32" if (options.vocab_size or 0) > 1 << 16 else "uint16"


def _open(file: _File, dtype: str, key: str | None, cache: Path) -> TokenShard:
    ids = open_shard(
        file.path, name=file.name, sha256=file.sha256, dtype=dtype, key=key, cache=cache
    )
    return TokenShard(name=file.name, path=file.path, ids=ids)


def _cut(shards: Sequence[TokenShard], fraction: float) -> dict[str, list[TokenShard]]:
    """Divide ``shards`` so that the last ``fraction`` of all tokens validates."""
    total = sum(len(shard.ids) for shard in shards)
    boundary = total - round(total * fraction)
    parts: dict[str, list[TokenShard]] = {"train": [], "validation": []}
    for split, shard in _divided(shards, boundary):
        parts[split].append(shard)
    return parts


def _divided(shards: Sequence[TokenShard], boundary: int) -> Iterator[tuple[str, TokenShard]]:
    start = 0
    for shard in shards:
        inside = min(max(boundary - start, 0), len(shard.ids))
        if inside:
            yield "train", dataclasses.replace(shard, ids=shard.ids[:inside])
        if inside < len(shard.ids):
            yield "validation", dataclasses.replace(shard, ids=shard.ids[inside:])
        start += len(shard.ids)
