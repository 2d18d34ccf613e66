"""The order of training samples and the ends of epochs, which know nothing of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from llmforge.ramp import Ramp

_WORD = (1 << 64) - 1

_GROUP = 50
"""Global batches that are sorted by length together, at most; more would leave less padding, but
this many leave a few percent."""
_FEWEST_GROUPS = 4
"""Groups of an epoch at least, if it has so many batches: its rows should meet others each time."""


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


class LengthOrder(SampleOrder):
    """An order in which rows of like length meet in a batch, so that little of it is padding.

    An epoch is shuffled as by :class:`SampleOrder` and cut into groups of many global batches.
    A group is sorted by length and cut into its batches, whose order is then drawn at random. The
    rows of one batch are sorted, the longest first, so that micro-batches and ranks, which are
    neighbours in it, have like lengths too. Batches begin at
    multiples of ``batch_size`` of the global position. One that takes the last rows of an epoch and
    the first of the next gets them as they were shuffled; they are sorted on either side.

    Is the gradient still a fair one? Every row is drawn once an epoch; its batch is at any place of
    the epoch with the same chance, and its group, so its neighbours, differ from epoch to epoch.
    No length is learned before another, and the expected step is the same all along. What does
    shift is the weight of a token: the loss of a step is the mean over the learned tokens of its
    global batch, so that one of a batch with few of them counts for more. That is so in any batches
    of unequal size; grouping by length makes them differ more, which weighs rows a little more
    alike than their tokens. Packed rows, all of one size, do not have this.

    Args:
        lengths: of the rows.
        batch_size: rows of a global batch.
        seed: the run's seed.
    """

    def __init__(self, lengths: NDArray[np.int64], *, batch_size: int, seed: int) -> None:
        super().__init__(len(lengths), seed=seed)
        self._lengths = lengths
        self._batch_size = batch_size
        self._kept: dict[int, NDArray[np.int64]] = {}  # two epochs at most: a batch may have both

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._kept:
            near = {one: rows for one, rows in self._kept.items() if one == epoch - 1}
            self._kept = {**near, epoch: self._grouped(super()._permuted(epoch), epoch)}
        return self._kept[epoch]

    def _grouped(self, shuffled: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        size, n_rows = self._batch_size, self.n_windows
        begun = min(-epoch * n_rows % size, n_rows)  # rows that complete the last epoch's batch
        n_batches = (n_rows - begun) // size
        end = begun + n_batches * size
        head, body, tail = shuffled[:begun], shuffled[begun:end], shuffled[end:]
        group = size * min(_GROUP, max(1, n_batches // _FEWEST_GROUPS))
        places = np.lexsort((-self._lengths[body], np.arange(len(body)) // group))
        batches = body[places].reshape(n_batches, size)
        # another part of the stream than that which shuffles: its counter starts far away
        key = np.array([self.seed & _WORD, epoch], dtype=np.uint64)
        generator = np.random.Philox(key=key, counter=np.array([0, 0, 0, 1], dtype=np.uint64))
        drawn = np.argsort(generator.random_raw(n_batches), kind="stable")
        tail = tail[np.argsort(-self._lengths[tail], kind="stable")]
        head = head[np.argsort(self._lengths[head], kind="stable")]  # the short ones meet
        return np.concatenate([head, batches[drawn].reshape(-1), tail])


class Epochs:
    """Passes over the training data in optimizer steps, exact at any length.

    The windows of a step seldom divide the data: a batch may have the last windows of one epoch and
    the first of the next. Epoch k ends at the step that takes its last window, with batches of one
    size ceil(k · windows / batch), so the ends never drift.

    Args:
        n_windows: windows in one pass over the data.
        batch_size: windows per optimizer step, over all ranks.
    """

    def __init__(self, *, n_windows: int, batch_size: int | Ramp) -> None:
        self.n_windows = n_windows
        self.batch_size = batch_size if isinstance(batch_size, Ramp) else Ramp(batch_size)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in one pass over the data once batches are whole; seldom an integer."""
        return self.n_windows / self.batch_size.end

    def end(self, epochs: float | Fraction) -> int:
        """Return the step at which ``epochs`` passes, which may be a fraction, are complete."""
        return self.batch_size.steps_to(_exact(epochs) * self.n_windows)

    def ends(self, step: int, *, every: float | Fraction = 1) -> bool:
        """Return whether a multiple of ``every`` epochs becomes complete at ``step``."""
        length = _exact(every) * self.n_windows
        before, after = self.batch_size.before(step - 1), self.batch_size.before(step)
        return after // length > before // length

    def due(self, interval: int | Fraction | None) -> Callable[[int], bool]:
        """Return a function that says whether something is due at a step.

        Args:
            interval: a number of steps, or epochs as a :class:`~fractions.Fraction`; None: never.
        """
        if interval is None:
            return lambda _: False
        if isinstance(interval, Fraction):
            return lambda step: self.ends(step, every=interval)
        return lambda step: step % interval == 0


def _exact(epochs: float | Fraction) -> Fraction:
    # Of the decimal that was written: 0.1 is a tenth here, and no binary number is.
    return epochs if isinstance(epochs, Fraction) else Fraction(str(epochs))
