"""A curve of bounded size, whatever the length of the run: means over equally wide steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_POINTS = 1500


class Curve:
    """Points by step, thinned as they arrive.

    Each kept point is the mean of those within ``width`` steps; the width doubles whenever there
    are too many. Values that are not finite are left out, as a picture cannot show them.

    Args:
        most: points to keep.
    """

    def __init__(self, *, most: int = MOST_POINTS) -> None:
        self._most = most
        self._width = 1
        self._bins: dict[int, tuple[float, float, int]] = {}

    def __len__(self) -> int:
        return len(self._bins)

    def add(self, step: int, value: float) -> None:
        """Take the value of a step."""
        if not math.isfinite(value):
            return
        self._put(step // self._width, step, value, 1)
        while len(self._bins) > self._most:
            self._widen()

    def points(self) -> tuple[Sequence[float], Sequence[float]]:
        """Return steps and values, in order of steps."""
        means = sorted(
            (steps / count, total / count) for steps, total, count in self._bins.values()
        )
        return tuple(step for step, _ in means), tuple(value for _, value in means)

    def _put(self, place: int, steps: float, total: float, count: int) -> None:
        old = self._bins.get(place, (0.0, 0.0, 0))
        self._bins[place] = (old[0] + steps, old[1] + total, old[2] + count)

    def _widen(self) -> None:
        before, self._bins = self._bins, {}
        self._width *= 2
        for place, (steps, total, count) in before.items():
            self._put(place // 2, steps, total, count)
