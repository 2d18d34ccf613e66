"""Fewer points of a curve, with what stands out in it: the extremes of each stretch are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Points = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Kept:
    """The points of a curve that are kept.

    Attributes:
        places: of the points within the curve, ascending.
        means: for each of them, the mean over the stretch that it stands for; the smoothed line
            of these is that of the whole curve, whereas extremes would pull it their way.
    """

    places: NDArray[np.intp]
    means: Floats


def keep_extremes(values: Any, *, most: int) -> Kept:
    """Choose at most ``most`` points of a curve: first, last, and each stretch's two extremes.

    A peak of one point among a million is kept, where every n-th point would lose it.

    Args:
        values: of the curve, shape ``(n,)``, all finite.
        most: how many points are kept, at least 4; a curve of no more is kept whole.
    """
    curve: Floats = np.asarray(values, dtype=np.float64)
    if most < 4:
        raise ValueError("most is at least 4")
    count = len(curve)
    if count <= most:
        return Kept(np.arange(count), curve)
    stretches = (most - 2) // 2
    edges = np.linspace(0, count, stretches + 1).astype(np.intp)
    starts, sizes = edges[:-1], np.diff(edges)
    # Stretches differ in size by one at most: one more column, padded so that it never counts.
    offsets = np.arange(sizes.max())
    places = np.minimum(starts[:, None] + offsets, count - 1)
    inside = offsets < sizes[:, None]
    table = curve[places]
    lowest = starts + np.where(inside, table, np.inf).argmin(axis=1)
    highest = starts + np.where(inside, table, -np.inf).argmax(axis=1)
    kept = np.unique(np.concatenate([[0], lowest, highest, [count - 1]]))
    means = np.add.reduceat(curve, starts) / sizes
    return Kept(kept, means[np.searchsorted(edges, kept, side="right") - 1])


def thinned(points: Points, *, most: int) -> Points:
    """Return at most ``most`` of the points, by :func:`keep_extremes` of their y.

    Args:
        points: x in ascending order, and y.
        most: points to keep, at least 4.
    """
    xs, ys = points
    if len(xs) <= most:
        return points
    places = keep_extremes(ys, most=most).places.tolist()
    return [xs[place] for place in places], [ys[place] for place in places]
