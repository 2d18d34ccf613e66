"""The order of training samples, as one global position that knows nothing of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class ShardProgress:
    """How far an epoch is through the shards.

    Attributes:
        epoch: passes over all shards completed.
        finished: shards of this epoch that were drawn whole.
        current: index of the shard that the next sample comes from.
    """

    epoch: int
    finished: int
    current: int


class SampleOrder:
    """Maps a global sample position to the window drawn there.

    Every epoch is a permutation of all windows of its own, derived from (seed, epoch) by the
    counter-based generator Philox (Salmon et al. 2011). The permutation sorts raw output, which
    NumPy keeps stable between versions, so that a resume under a newer NumPy sees the same order.

    Windows of several shards are drawn shard by shard: the shards in random order, and the windows
    of each in random order, both drawn again in every epoch. So a disk or a cache is read in
    places that are near each other.

    Args:
        per_shard: windows in each shard; a number alone is one shard.
        seed: the run's seed.
    """

    def __init__(self, per_shard: int | Sequence[int], *, seed: int) -> None:
        sizes = [per_shard] if isinstance(per_shard, int) else list(per_shard)
        self.n_windows = sum(sizes)
        if self.n_windows < 1:
            raise ValueError("a sample order needs at least one window")
        self.seed = seed
        self._sizes = np.array(sizes, np.int64)
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, np.int64)
        self._shards: NDArray[np.int64] = np.empty(0, np.int64)

    def locate(self, position: int) -> tuple[int, int]:
        """Return (epoch, window index) of one global position."""
        epoch, offset = divmod(position, self.n_windows)
        return epoch, int(self._permuted(epoch)[offset])

    def windows(self, position: int, count: int) -> NDArray[np.int64]:
        """Return the window indices at ``position`` to ``position + count``, int64 [count].

        A range that crosses the end of an epoch continues with the next one.
        """
        found: list[NDArray[np.int64]] = []
        while count > 0:
            epoch, offset = divmod(position, self.n_windows)
            taken = self._permuted(epoch)[offset : offset + count]
            found.append(taken)
            position += len(taken)
            count -= len(taken)
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def progress(self, position: int) -> ShardProgress:
        """Return how far the epoch at ``position`` is through the shards."""
        epoch, offset = divmod(position, self.n_windows)
        self._permuted(epoch)
        ends = np.cumsum(self._sizes[self._shards])
        finished = int(np.searchsorted(ends, offset, side="right"))
        return ShardProgress(epoch, finished, int(self._shards[finished]))

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            key = np.array([self.seed & _WORD, epoch], dtype=np.uint64)
            generator = np.random.Philox(key=key)
            raw = generator.random_raw(self.n_windows)
            self._shards = np.argsort(generator.random_raw(len(self._sizes)), kind="stable")
            rank = np.empty_like(self._shards)
            rank[self._shards] = np.arange(len(self._sizes))
            self._permutation = np.lexsort((raw, np.repeat(rank, self._sizes)))
            self._epoch = epoch
        return self._permutation
