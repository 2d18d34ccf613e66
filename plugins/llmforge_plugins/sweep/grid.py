"""The sweeper ``grid``, and points of any space that were not tried yet.

A sampler over few values likes to repeat itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmforge import Component, hookimpl
from llmforge.interfaces import Direction, Point, Space
from llmforge_plugins.sweep._pruning import Pruner, PruningOptions

_DRAWS = 16


class Grid(Component, kind="sweep"):
    """Every combination once, in order; each key needs values that can be counted."""

    class Options(PruningOptions):
        """Options of ``[sweep.grid]``."""

    @hookimpl
    def forge_build_sweeper(self, space: Space, direction: Direction, seed: int) -> GridSweeper:
        """Build the sweeper."""
        return GridSweeper(space, Pruner(self.options, direction=direction, seed=seed))


class GridSweeper:
    """Proposes the first combination that was not proposed yet."""

    def __init__(self, space: Space, pruner: Pruner) -> None:
        self._space = space
        self.prune = pruner.prune

    def propose(self, number: int, history: Sequence[Point]) -> Mapping[str, Any] | None:
        """Return the next combination, None after the last."""
        del number
        return first_untried(self._space, history)


def hashable(parameters: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return parameters as something to compare and to keep in a set."""
    return frozenset((key, repr(value)) for key, value in parameters.items())


def first_untried(space: Space, history: Sequence[Point]) -> Mapping[str, Any] | None:
    """Return the first point of a countable space that is not in ``history``, None after all."""
    tried = {hashable(point.parameters) for point in history}
    return next((point for point in space.grid() if hashable(point) not in tried), None)


def untried(
    draw: Callable[[], Mapping[str, Any]], space: Space, history: Sequence[Point]
) -> Mapping[str, Any] | None:
    """Return the first drawn point, rounded, that is not in ``history``.

    After so many draws in vain, the first untried point of a countable space, None when there is
    none; what is drawn next where values cannot be counted.
    """
    tried = {hashable(point.parameters) for point in history}
    for _ in range(_DRAWS):
        point = space.rounded(draw())
        if hashable(point) not in tried:
            return point
    if all(dimension.values() is not None for dimension in space.dimensions):
        return first_untried(space, history)
    return point
