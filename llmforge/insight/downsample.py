"""Fewer points that draw the same picture: of each stretch of a curve, its extremes."""

from __future__ import annotations

from collections.abc import Sequence

Points = tuple[Sequence[float], Sequence[float]]


def thinned(points: Points, *, most: int) -> Points:
    """Return at most ``most`` of the points: first, last, and the extremes of equal stretches.

    A spike of a single point stays, which a mean or every n-th point would lose.

    Args:
        points: x in ascending order, and y.
        most: points to keep, at least 4.
    """
    xs, ys = points
    count = len(xs)
    if count <= most:
        return points
    stretches = max(1, (most - 2) // 2)
    kept = {0, count - 1}
    for stretch in range(stretches):
        begin, end = stretch * count // stretches, (stretch + 1) * count // stretches
        part = ys[begin:end]
        kept.add(begin + part.index(min(part)))
        kept.add(begin + part.index(max(part)))
    places = sorted(kept)
    return [xs[place] for place in places], [ys[place] for place in places]
