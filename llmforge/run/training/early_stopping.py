"""Which evaluation is the best so far, and whether the run has stopped improving."""

from __future__ import annotations

from collections.abc import Mapping

from llmforge.recipe import Recipe
from llmforge.recipe.measured import metric_direction
from llmforge.run.trainer_state import Best, TrainerState


class EarlyStopping:
    """Judges evaluations by ``early_stopping.metric``, the same on all ranks.

    Args:
        recipe: has the metric, ``min_delta`` and ``patience``.
        state: has the best value and the evaluations since; changed in place.
    """

    def __init__(self, recipe: Recipe, state: TrainerState) -> None:
        self._options = recipe.early_stopping
        self._state = state
        direction = metric_direction(recipe.selections, recipe.early_stopping.metric)
        self._more_is_better = direction == "maximize"

    def judge(self, values: Mapping[str, float]) -> bool:
        """Take an evaluation; return whether it is the best so far."""
        state, metric = self._state, self._options.metric
        state.last_evaluation = dict(values)
        value = values.get(metric)
        if value is None:
            return False  # the metric has an interval of its own
        if state.best is None or self._is_better(value, state.best.value):
            state.best = Best(metric, value, state.step)
            state.stale_evaluations = 0
            return True
        state.stale_evaluations += 1
        return False

    def _is_better(self, value: float, best: float) -> bool:
        delta = self._options.min_delta
        return value > best + delta if self._more_is_better else value < best - delta

    def reason(self) -> str | None:
        """Return why the run should stop now; None when it should not."""
        stale = self._state.stale_evaluations
        if not self._options.patience or stale < self._options.patience:
            return None
        return f"{self._options.metric} has not improved for {stale} evaluations"
