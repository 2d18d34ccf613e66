"""Several examples in one row of the model's context, so that hardly anything is padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Which examples share a row.

    Attributes:
        members: numbers of the examples, those of a bin together; int64 [examples].
        starts: where each bin begins in ``members``, and the end of the last; int64 [bins + 1].
    """

    members: NDArray[np.int64]
    starts: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of bins."""
        return len(self.starts) - 1

    def sums(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sum over each bin of what ``values`` has for each example."""
        found: NDArray[np.int64] = np.add.reduceat(values[self.members], self.starts[:-1])
        return found

    def of(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the examples of ``bins``, one bin after the other, and how many each has."""
        counts = self.starts[bins + 1] - self.starts[bins]
        firsts = np.cumsum(counts) - counts
        places = np.arange(int(counts.sum())) + np.repeat(self.starts[bins] - firsts, counts)
        return self.members[places], counts


def first_fit_decreasing(lengths: NDArray[np.int64], capacity: int) -> Bins:
    """Put examples into as few bins as is quick: the longest first, each where it first fits.

    At most 11/9 of the fewest bins possible and 6/9 of a bin more (Dósa 2007); among many short
    examples nearly none is left over.

    Examples of one length are placed together, each bin taking as many as it has room for, which
    is where they would go one by one. So the work is a sort and, for every length there is, a
    look at the bins that are open: no more than there are tokens, and in NumPy.

    Args:
        lengths: of the examples, from 1 to ``capacity``.
        capacity: of a bin.

    Raises:
        ValueError: an example is empty or longer than a bin.
    """
    if len(lengths) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= capacity:
        raise ValueError(f"lengths must be from 1 to {capacity}")
    order = np.argsort(-lengths, kind="stable")
    sizes, counts = np.unique(lengths, return_counts=True)
    place = np.empty(len(lengths), np.int64)
    numbers = np.empty(0, np.int64)  # of the bins that still have room for the shortest
    room = np.empty(0, np.int64)
    bins = done = 0
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        taken = room // size
        before = np.cumsum(taken) - taken
        taken = np.clip(count - before, 0, taken)
        placed = int(taken.sum())
        place[order[done : done + placed]] = np.repeat(numbers, taken)
        room -= taken * size
        if rest := count - placed:
            each = capacity // size
            fresh = np.full(-(-rest // each), each)
            fresh[-1] = rest - each * (len(fresh) - 1)
            added = bins + np.arange(len(fresh))
            place[order[done + placed : done + count]] = np.repeat(added, fresh)
            numbers = np.concatenate([numbers, added])
            room = np.concatenate([room, capacity - fresh * size])
            bins += len(fresh)
        done += count
        open_ = room >= sizes[0]
        numbers, room = numbers[open_], room[open_]
    # by bin, and within a bin the longest first, as they were put in
    members = order[np.argsort(place[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=bins))])
    return Bins(members=members, starts=starts)
