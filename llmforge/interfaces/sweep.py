"""What a ``sweep`` component hands to the core, and what it gets: the space and what was tried."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, Protocol

Direction = Literal["minimize", "maximize"]

_DIGITS = 4
_TOLERANCE = 1e-9  # of a step: 0.1 + 0.2 is on a grid of 0.1


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One recipe key that is swept, and the values it may take.

    Attributes:
        key: the recipe key, for example ``optimizer.adamw.lr``.
        kind: ``choice``, ``float`` or ``int``.
        choices: the values of a choice.
        low: the smallest value of a float or int.
        high: the largest, included.
        step: distance of the values; None for any float.
        log: whether the logarithm is what is spread evenly.
        when: swept only where each of these keys has one of the values.
    """

    key: str
    kind: Literal["choice", "float", "int"]
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def values(self) -> tuple[Any, ...] | None:
        """Return every value in order, or None when there is no end of them."""
        if self.kind == "choice":
            return self.choices
        if self.step is None or (self.log and self.kind == "float"):
            return None
        count = math.floor((self.high - self.low) / self.step + _TOLERANCE) + 1
        return tuple(self._on_grid(index) for index in range(count))

    def extremes(self) -> tuple[Any, ...]:
        """Return the values that are likeliest to be wrong: every choice, or both ends."""
        if self.kind == "choice":
            return self.choices
        values = self.values()
        low, high = (self.low, self.high) if values is None else (values[0], values[-1])
        return (self._typed(low),) if low == high else (self._typed(low), self._typed(high))

    def contains(self, value: Any) -> bool:
        """Return whether ``value`` is one of the dimension's."""
        if self.kind == "choice":
            return any(value == item and type(value) is type(item) for item in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high or (self.kind == "int" and value != int(value)):
            return False
        if self.step is None or self.log:
            return True
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) <= _TOLERANCE * max(1.0, abs(steps))

    def rounded(self, value: Any) -> Any:
        """Return ``value`` with as many digits as people and ids need.

        That is 4 significant digits, or 4 of the range's width where that is finer, and never a
        value outside of the range. Choices, whole numbers and steps stay what they are.
        """
        if self.kind != "float" or not isinstance(value, float) or not math.isfinite(value):
            return value
        if self.step is not None and not self.log:
            return self._on_grid(round((value - self.low) / self.step))
        sizes = [abs(value)] if self.log else [abs(value), self.high - self.low]
        decimals = [_DIGITS - 1 - math.floor(math.log10(size)) for size in sizes if size]
        return min(max(round(value, max(decimals, default=0)), self.low), self.high)

    def _on_grid(self, index: int) -> float:
        # As people count in steps of 0.1: 0.3, and not 0.30000000000000004.
        step = 0 if self.step is None else self.step
        return self._typed(float(Decimal(repr(self.low)) + index * Decimal(repr(step))))

    def _typed(self, value: float) -> float:
        return int(value) if self.kind == "int" else float(value)


@dataclass(frozen=True, kw_only=True)
class Tie:
    """A recipe key whose value follows from a swept one: ``times`` its value."""

    key: str
    to: str
    times: float = 1


@dataclass(frozen=True, kw_only=True)
class Space:
    """Everything a sweep may change.

    Attributes:
        dimensions: the swept keys, each after the keys its condition asks for.
        ties: keys that follow, each after the key it follows.
    """

    dimensions: tuple[Dimension, ...]
    ties: tuple[Tie, ...] = ()

    def is_active(self, dimension: Dimension, parameters: Mapping[str, Any]) -> bool:
        """Return whether ``dimension`` is swept where the others are ``parameters``."""
        return all(
            key in parameters and parameters[key] in allowed
            for key, allowed in dimension.when.items()
        )

    def with_ties(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``parameters`` together with the values that follow from them."""
        full = dict(parameters)
        for tie in self.ties:
            if tie.to in full:
                value = float(f"{full[tie.to] * tie.times:.12g}")
                whole = isinstance(full[tie.to], int) and float(value).is_integer()
                full[tie.key] = int(value) if whole else value
        return full

    def rounded(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return a proposed point with its values rounded; see :meth:`Dimension.rounded`."""
        dimensions = {item.key: item for item in self.dimensions}
        return {
            key: dimensions[key].rounded(value) if key in dimensions else value
            for key, value in parameters.items()
        }

    def contains(self, parameters: Mapping[str, Any]) -> bool:
        """Return whether ``parameters``, without tied values, are a point of this space."""
        active = [item for item in self.dimensions if self.is_active(item, parameters)]
        return {item.key for item in active} == set(parameters) and all(
            item.contains(parameters[item.key]) for item in active
        )

    def swept(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``parameters`` without the values that only follow from others."""
        tied = {tie.key for tie in self.ties}
        return {key: value for key, value in parameters.items() if key not in tied}

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield every point, the last dimension changing fastest.

        Raises:
            ValueError: a dimension has no end of values.
        """
        yield from self._below(0, {})

    def _below(self, depth: int, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if depth == len(self.dimensions):
            yield dict(parameters)
            return
        dimension = self.dimensions[depth]
        if not self.is_active(dimension, parameters):
            yield from self._below(depth + 1, parameters)
            return
        values = dimension.values()
        if values is None:
            raise ValueError(f"{dimension.key} has no end of values")
        for value in values:
            yield from self._below(depth + 1, {**parameters, dimension.key: value})

    def corners(self, *, at_most: int) -> list[dict[str, Any]]:
        """Return points made of extreme values, so many that each value of each is in one.

        All combinations while they are at most ``at_most``; else each value once beside the
        first of the others.
        """
        extreme = Space(
            dimensions=tuple(
                Dimension(key=item.key, kind="choice", choices=self._telling(item), when=item.when)
                for item in self.dimensions
            )
        )
        combined = list(itertools.islice(extreme.grid(), at_most + 1))
        if len(combined) <= at_most:
            return combined
        return extreme.each_value_once()

    def _telling(self, dimension: Dimension) -> tuple[Any, ...]:
        """Return the extremes of ``dimension`` and the values that others' conditions ask for."""
        asked = [value for other in self.dimensions for value in other.when.get(dimension.key, ())]
        return tuple(dict.fromkeys([*dimension.extremes(), *asked]))

    def each_value_once(self) -> list[dict[str, Any]]:
        """Return points in which every value of every dimension occurs."""
        found: list[dict[str, Any]] = []
        for wanted in self.dimensions:
            for value in wanted.values() or ():
                point = self._point_with(wanted, value)
                if point not in found:
                    found.append(point)
        return found

    def _point_with(self, wanted: Dimension, value: Any) -> dict[str, Any]:
        needed = self._needed(wanted) | {wanted.key: value}
        point: dict[str, Any] = {}
        for dimension in self.dimensions:
            if self.is_active(dimension, point):
                values = dimension.values() or ()
                point[dimension.key] = needed.get(dimension.key, values[0])
        return point

    def _needed(self, wanted: Dimension) -> dict[str, Any]:
        """Return values of other dimensions under which ``wanted`` is active."""
        by_key = {item.key: item for item in self.dimensions}
        needed: dict[str, Any] = {}
        for key, allowed in wanted.when.items():
            needed |= self._needed(by_key[key]) | {key: allowed[0]}
        return needed


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of the space that was tried or is being tried.

    Attributes:
        number: its place in the order of proposals, from 0.
        parameters: values by recipe key, without tied ones.
        state: ``running`` (or waiting to continue), ``completed``, ``pruned`` or ``failed``.
        value: the objective, when completed: the mean over its seeds.
        curve: the objective by step while it ran.
    """

    number: int
    parameters: Mapping[str, Any]
    state: Literal["running", "completed", "pruned", "failed"]
    value: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)


class Sweeper(Protocol):
    """Decides what is tried. Pure: answers depend on the arguments and the seed alone.

    So a sweep that was killed continues exactly as if it had not been, and nothing has to be kept.
    """

    def propose(self, number: int, history: Sequence[Point]) -> Mapping[str, Any] | None:
        """Return the values of point ``number`` by recipe key, or None when there is none left.

        Args:
            number: of the point to propose.
            history: every other point that is in the space, in the order of numbers.
        """
        ...

    def prune(self, point: Point, others: Sequence[Point]) -> str | None:
        """Return why ``point`` should not continue, or None.

        Args:
            point: its curve ends at the step that was just evaluated. Its state is ``pruned``
                when it was stopped there, and may continue after what others have done since.
            others: the other points that were started, with their whole curves.
        """
        ...
