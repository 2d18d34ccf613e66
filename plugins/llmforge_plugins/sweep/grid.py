"""The sweeper ``grid``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmforge import Component, hookimpl
from llmforge.interfaces import Direction, Point, Space
from llmforge_plugins.sweep._pruning import Pruner, PruningOptions


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
        tried = {_hashable(point.parameters) for point in history}
        combinations = self._space.grid()
        return next((item for item in combinations if _hashable(item) not in tried), None)


def _hashable(parameters: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((key, repr(value)) for key, value in parameters.items())
