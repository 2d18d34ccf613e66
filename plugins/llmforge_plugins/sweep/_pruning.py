"""When to stop a trial early: options and rules that every built-in sweeper shares.

Each rule is a function of the curves alone, so that it comes to the same answer after a crash.
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

import llmforge
from llmforge.interfaces import Direction, Point


class PruningOptions(llmforge.Options):
    """Options of pruning."""

    pruner: Literal["none", "median", "asha", "hyperband"] = "none"
    """``median`` stops what is worse than half of the completed trials were at that step; ``asha``
    lets the best of each rung continue to the next, ``hyperband`` with several first rungs at
    once."""
    startup_trials: Annotated[int, Field(ge=1)] = 4
    """Trials that ``median`` waits for before it stops any."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps that ``median`` lets every trial take."""
    steps_per_rung: Annotated[int, Field(gt=0)] | None = None
    """Steps up to the first rung of ``asha`` and ``hyperband``; an evaluation should fall there."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """One of so many continues from each rung; the next rung is so many times as far."""
    rungs: Annotated[int, Field(ge=1)] = 3
    """Number of rungs."""

    @model_validator(mode="after")
    def _rungs_have_a_length(self) -> PruningOptions:
        if self.pruner in ("asha", "hyperband") and self.steps_per_rung is None:
            raise ValueError(f"pruner '{self.pruner}' needs steps_per_rung")
        return self


class Pruner:
    """Decides whether a trial continues.

    Args:
        options: which rule, and how strict.
        direction: of the objective.
        seed: deals trials out over the brackets of Hyperband.
    """

    def __init__(self, options: PruningOptions, *, direction: Direction, seed: int) -> None:
        self._options = options
        self._sign = 1.0 if direction == "minimize" else -1.0
        self._seed = seed

    def prune(self, point: Point, others: Sequence[Point]) -> str | None:
        """Return why ``point`` should stop, or None; see :class:`llmforge.interfaces.Sweeper`."""
        rule = self._options.pruner
        if rule == "none" or not point.curve:
            return None
        if rule == "median":
            return self._by_median(point, others)
        bracket = self._bracket(point.number) if rule == "hyperband" else 0
        if rule == "hyperband":
            others = [other for other in others if self._bracket(other.number) == bracket]
        return self._by_rungs(point, others, skipped=bracket)

    def _by_median(self, point: Point, others: Sequence[Point]) -> str | None:
        """The median rule of Golovin et al., "Google Vizier" (2017), over completed trials."""
        if point.state == "pruned":
            return "it stays where the median rule stopped it"
        step = max(point.curve)
        rivals = [_value_at(other.curve, step) for other in others if other.state == "completed"]
        known = [value for value in rivals if value is not None]
        if len(known) < self._options.startup_trials or step <= self._options.warmup_steps:
            return None
        best = min(self._sign * value for value in point.curve.values())
        median = statistics.median(self._sign * value for value in known)
        if best <= median:
            return None
        return (
            f"{self._sign * best:.4f} is worse at step {step} than the median "
            f"{self._sign * median:.4f} of {len(known)} trials"
        )

    def _by_rungs(self, point: Point, others: Sequence[Point], *, skipped: int) -> str | None:
        """Asynchronous successive halving: Li et al., "A System for Massively Parallel
        Hyperparameter Tuning" (2020).

        What counts at a rung is the first evaluation at or after it.
        """
        step = max(point.curve)
        for rung in range(skipped, self._options.rungs):
            length = (self._options.steps_per_rung or 1) * self._options.reduction**rung
            if _first_step(point.curve, length) != step:
                continue
            own = self._sign * point.curve[step]
            reached = [_first_step(other.curve, length) for other in others]
            rivals = [
                self._sign * other.curve[at]
                for other, at in zip(others, reached, strict=True)
                if at is not None
            ]
            places = max((len(rivals) + 1) // self._options.reduction, 1)
            better = sum(value < own for value in rivals)
            if better >= places:
                return (
                    f"{self._sign * own:.4f} at step {step} is number {better + 1} of "
                    f"{len(rivals) + 1} at rung {rung + 1}, and {places} continue"
                )
        return None

    def _bracket(self, number: int) -> int:
        """Return how many rungs a trial skips: Hyperband's hedge against judging too early.

        After Li et al., "Hyperband" (2018): brackets get trials in proportion to what each asks
        for, most to the one that judges earliest.
        """
        count, reduction = self._options.rungs, self._options.reduction
        shares = [
            reduction ** (count - 1 - skipped) / (count - skipped) for skipped in range(count)
        ]
        drawn = zlib.crc32(f"{self._seed}/{number}".encode()) / 2**32 * sum(shares)
        for bracket, share in enumerate(shares):
            drawn -= share
            if drawn < 0:
                return bracket
        return count - 1


def _value_at(curve: Mapping[int, float], step: int) -> float | None:
    """Return the newest value at or before ``step``."""
    known = [at for at in curve if at <= step]
    return curve[max(known)] if known else None


def _first_step(curve: Mapping[int, float], length: int) -> int | None:
    """Return the first evaluated step at or after ``length``."""
    return min((at for at in curve if at >= length), default=None)
