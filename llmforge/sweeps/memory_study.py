"""Trials as an Optuna study in memory, for Optuna's own analyses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmforge.interfaces import Dimension, Point, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_FEWEST = 4
"""Completed points below which nothing is said about what mattered."""


def importances(points: Sequence[Point], space: Space, *, direction: str) -> dict[str, float]:
    """Return how much of the difference between points each key explains, the most first.

    After PED-ANOVA (Watanabe, Bansal and Hutter, 2023), as Optuna computes it; the shares add up
    to 1. Only keys that every point has can be judged. Empty when too few points are completed.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    done = [point for point in points if point.value is not None and point.state == "completed"]
    shared = [
        item
        for item in space.dimensions
        if len({repr(point.parameters.get(item.key)) for point in done}) > 1
        and all(item.key in point.parameters for point in done)
    ]
    if len(done) < _FEWEST or not shared:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize" if direction == "minimize" else "maximize")
    kinds = {item.key: distribution(item) for item in shared}
    for point in done:
        study.add_trial(
            optuna.trial.create_trial(
                value=point.value,
                params={key: point.parameters[key] for key in kinds},
                distributions=kinds,
            )
        )
    found = get_param_importances(
        study, evaluator=PedAnovaImportanceEvaluator(), params=list(kinds)
    )
    total = sum(found.values())
    return {key: value / total for key, value in found.items()} if total > 0 else {}


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return what Optuna calls the values a key may take."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "int":
        low, high = int(dimension.low), int(dimension.high)
        return IntDistribution(low, high, log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
