"""Keys and values of earlier prompts, for later ones that begin as they did."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

_SHORTEST = 16
"""Fewest common tokens worth a copy."""


class Prefixes:
    """Caches of one row by the tokens they hold; the one not used for longest goes first.

    Args:
        limit: most tokens held at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._tokens = 0

    def find(self, ids: Sequence[int]) -> tuple[Any, int]:
        """Return the cache that shares most with the beginning of ``ids``, and how many tokens.

        The last of ``ids`` never counts: the logits after it have to be computed. (None, 0) when
        too few are shared.
        """
        best: tuple[int, ...] = ()
        longest = 0
        wanted = tuple(ids[:-1])
        for held in self._held:
            common = _common(held, wanted, at_least=longest)
            if common > longest:
                best, longest = held, common
        if longest < _SHORTEST:
            return None, 0
        self._held.move_to_end(best)
        return self._held[best], longest

    def keep(self, ids: Sequence[int], cache: Any) -> None:
        """Hold a copy of ``cache``, whose only row is ``ids``; too long ones are not held."""
        key = tuple(ids)
        if not _SHORTEST <= len(key) <= self._limit or key in self._held:
            return
        self._held[key] = cache.new_row(len(key), source=cache, count=len(key))
        self._tokens += len(key)
        while self._tokens > self._limit:
            gone, _ = self._held.popitem(last=False)
            self._tokens -= len(gone)


def _common(left: tuple[int, ...], right: tuple[int, ...], *, at_least: int) -> int:
    """Return how many tokens two begin with alike; 0 when not more than ``at_least``."""
    most = min(len(left), len(right))
    if most <= at_least or left[:at_least] != right[:at_least]:
        return 0
    if left[:most] == right[:most]:
        return most
    return next(place for place in range(at_least, most) if left[place] != right[place])
