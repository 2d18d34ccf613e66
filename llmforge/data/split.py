"""One split of the data as token ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmforge.interfaces import TokenShard


@dataclass(frozen=True, kw_only=True)
class TokenSplit:
    """Token ids in one or several memory-mapped files.

    Attributes:
        shards: the files in order; text that llmforge tokenised has one.
        n_bytes: UTF-8 bytes of the text, what ``bits_per_byte`` is measured over; None when the
            text is not known.
        documents: number of documents.
    """

    shards: tuple[TokenShard, ...]
    n_bytes: int | None
    documents: int

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
