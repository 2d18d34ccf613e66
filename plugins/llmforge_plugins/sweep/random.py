"""The sweeper ``random``."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from llmforge import Component, hookimpl
from llmforge.interfaces import Dimension, Direction, Point, Space
from llmforge_plugins.sweep._pruning import Pruner, PruningOptions
from llmforge_plugins.sweep.grid import untried


class Random(Component, kind="sweep"):
    """Points drawn evenly from the space, each independent of the others."""

    supports = frozenset({"endless_values"})

    class Options(PruningOptions):
        """Options of ``[sweep.random]``."""

    @hookimpl
    def forge_build_sweeper(self, space: Space, direction: Direction, seed: int) -> RandomSweeper:
        """Build the sweeper."""
        pruner = Pruner(self.options, direction=direction, seed=seed)
        return RandomSweeper(space, pruner, seed=seed)


class RandomSweeper:
    """Draws point ``number`` from a generator seeded with (seed, number)."""

    def __init__(self, space: Space, pruner: Pruner, *, seed: int) -> None:
        self._space = space
        self._seed = seed
        self.prune = pruner.prune

    def propose(self, number: int, history: Sequence[Point]) -> Mapping[str, Any] | None:
        """Return the point of this number, drawn again where it was tried before."""
        generator = random.Random(f"{self._seed}/{number}")
        return untried(lambda: self._point(generator), self._space, history)

    def _point(self, generator: random.Random) -> dict[str, Any]:
        point: dict[str, Any] = {}
        for dimension in self._space.dimensions:
            if self._space.is_active(dimension, point):
                point[dimension.key] = _drawn(dimension, generator)
        return point


def _drawn(dimension: Dimension, generator: random.Random) -> Any:
    if dimension.kind == "choice" or (dimension.step is not None and not dimension.log):
        return generator.choice(dimension.values() or ())
    if not dimension.log:
        return generator.uniform(dimension.low, dimension.high)
    low, high = dimension.low, dimension.high
    if dimension.kind == "int":
        low, high = low - 0.5, high + 0.5  # so that both ends are as likely as their neighbours
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    if dimension.kind == "int":
        return int(min(max(round(value), dimension.low), dimension.high))
    return min(max(value, dimension.low), dimension.high)
