"""The order of training samples, as one global position that knows nothing of ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WORD = (1 << 64) - 1


class SampleOrder:
    """Maps a global sample position to the window drawn there.

    Every epoch is a permutation of all windows of its own, derived from (seed, epoch) by the
    counter-based generator Philox (Salmon et al. 2011). The permutation sorts raw output, which
    NumPy keeps stable between versions, so that a resume under a newer NumPy sees the same order.

    Args:
        n_windows: windows in the split, at least 1.
        seed: the run's seed.
    """

    def __init__(self, n_windows: int, *, seed: int) -> None:
        if n_windows < 1:
            raise ValueError("a sample order needs at least one window")
        self.n_windows = n_windows
        self.seed = seed
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, np.int64)

    def locate(self, position: int) -> tuple[int, int]:
        """Return (epoch, window index) of one global position."""
        epoch, offset = divmod(position, self.n_windows)
        return epoch, int(self._permuted(epoch)[offset])

    def windows(self, position: int, count: int) -> NDArray[np.int64]:
        """Return the window indices at ``position`` to ``position + count``, int64 [count].

        A range that crosses the end of an epoch goes on with the next one.
        """
        found: list[NDArray[np.int64]] = []
        while count > 0:
            epoch, offset = divmod(position, self.n_windows)
            taken = self._permuted(epoch)[offset : offset + count]
            found.append(taken)
            position += len(taken)
            count -= len(taken)
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            key = np.array([self.seed & _WORD, epoch], dtype=np.uint64)
            raw = np.random.Philox(key=key).random_raw(self.n_windows)
            self._permutation = np.argsort(raw, kind="stable")
            self._epoch = epoch
        return self._permutation
