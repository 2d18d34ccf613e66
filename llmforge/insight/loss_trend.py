"""Where a loss stands and where it goes: mean, spread and slope over the last logged steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 50
"""Logged steps that count."""
METHOD = f"least squares over the last {WINDOW} logged steps; flat within 2 standard errors"

_FEWEST = 3


@dataclass(frozen=True, kw_only=True)
class LossStatistics:
    """The values of a loss in its window.

    Attributes:
        count: how many.
        first_step: the first of them.
        last_step: the last of them.
        mean: their mean.
        std: their standard deviation.
        low: the smallest.
        high: the largest.
    """

    count: int
    first_step: int
    last_step: int
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Which way a loss goes.

    Attributes:
        direction: ``improving``, ``flat`` or ``worsening``; ``unknown`` with too few values.
        slope: change of the loss in 1,000 steps; None when unknown.
        standard_error: of the slope.
        count: values it was computed from.
        method: how, in words.
    """

    direction: str
    slope: float | None = None
    standard_error: float | None = None
    count: int = 0
    method: str = METHOD


def loss_statistics(steps: Sequence[int], losses: Sequence[float]) -> LossStatistics | None:
    """Return the statistics of the last :data:`WINDOW` losses, None when there is none.

    The losses are finite, one for each of ``steps``.
    """
    steps, losses = steps[-WINDOW:], losses[-WINDOW:]
    if not losses:
        return None
    mean = math.fsum(losses) / len(losses)
    variance = math.fsum((loss - mean) ** 2 for loss in losses) / len(losses)
    return LossStatistics(
        count=len(losses),
        first_step=steps[0],
        last_step=steps[-1],
        mean=mean,
        std=math.sqrt(variance),
        low=min(losses),
        high=max(losses),
    )


def loss_trend(steps: Sequence[int], losses: Sequence[float]) -> Trend:
    """Return the trend of the last :data:`WINDOW` losses, a line fitted by least squares.

    The loss improves or worsens where the slope is more than two of its standard errors away from
    zero. The losses are finite, one for each of ``steps``.
    """
    steps, losses = steps[-WINDOW:], losses[-WINDOW:]
    count = len(losses)
    if count < _FEWEST:
        return Trend(direction="unknown", count=count)
    middle, mean = math.fsum(steps) / count, math.fsum(losses) / count
    spread = math.fsum((step - middle) ** 2 for step in steps)
    together = math.fsum(
        (step - middle) * (loss - mean) for step, loss in zip(steps, losses, strict=True)
    )
    slope = together / spread
    rest = math.fsum(
        (loss - mean - slope * (step - middle)) ** 2
        for step, loss in zip(steps, losses, strict=True)
    )
    error = math.sqrt(rest / (count - 2) / spread)
    direction = "improving" if slope < 0 else "worsening"
    if abs(slope) <= 2 * error:
        direction = "flat"
    return Trend(direction=direction, slope=slope * 1000, standard_error=error * 1000, count=count)
