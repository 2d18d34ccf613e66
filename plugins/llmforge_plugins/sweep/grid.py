"""The sweeper ``grid``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmforge import Component, hookimpl
from llmforge.interfaces import Direction, Point, Space
from llmforge_plugins.sweep._pruning import Pruner, PruningOptions
from llmforge_plugins.sweep._untried import first_untried


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
