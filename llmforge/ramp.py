"""A whole number that is small at the beginning of a run and doubles in stages."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise


class Ramp:
    """The same number at every step, or one that doubles until it is that number.

    Args:
        end: what the number is in the end.
        begin: what it is at step 0.
        steps: after so many it is ``end``; the smaller numbers share them equally.

    Raises:
        ValueError: doubling ``begin`` does not lead to ``end``.
    """

    def __init__(self, end: int, *, begin: int | None = None, steps: int = 0) -> None:
        self.end = end
        stages = doubled(begin, end) if begin is not None and steps else [end]
        last = len(stages) - 1
        # The first step of each stage; a stage that has none of few steps is passed over.
        self._stages = [
            (-(-number * steps // last) if number else 0, value)
            for number, value in enumerate(stages)
        ]

    def at(self, step: int) -> int:
        """Return the number at a step, counted from 0."""
        return next(value for first, value in reversed(self._stages) if step >= first)

    def before(self, step: int) -> int:
        """Return the sum of the numbers at all steps before this one."""
        total = 0
        for (first, value), (after, _) in pairwise([*self._stages, (step, 0)]):
            total += max(0, min(after, step) - first) * value
        return total

    def steps_to(self, total: Fraction | int) -> int:
        """Return after how many steps the numbers add up to ``total`` or more."""
        for (first, value), (after, _) in pairwise(self._stages):
            if total <= (after - first) * value:
                return first + math.ceil(total / value)
            total -= (after - first) * value
        first, value = self._stages[-1]
        return first + math.ceil(total / value)


def doubled(begin: int, end: int) -> list[int]:
    """Return ``begin``, twice that, … up to ``end``.

    Raises:
        ValueError: doubling ``begin`` does not lead to ``end``.
    """
    stages = [begin]
    while stages[-1] < end:
        stages.append(2 * stages[-1])
    if stages[-1] != end:
        raise ValueError(f"doubling {begin} does not lead to {end}")
    return stages
