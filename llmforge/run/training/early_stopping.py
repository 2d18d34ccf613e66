"""Which evaluation is the best so far, and whether the run has stopped improving."""

from __future__ import annotations

from collections.abc import Mapping

from llmforge.recipe import Recipe
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

    def judge(self, values: Mapping[str, float]) -> bool:
        """Take an evaluation; return whether it is the best so far."""
        state, metric = self._state, self._options.metric
        state.last_evaluation = dict(values)
        value = values[metric]
        if state.best is None or value < state.best.value - self._options.min_delta:
            state.best = Best(metric, value, state.step)
            state.stale_evaluations = 0
            return True
        state.stale_evaluations += 1
        return False

    def reason(self) -> str | None:
        """Return why the run should stop now; None when it should not."""
        stale = self._state.stale_evaluations
        if not self._options.patience or stale < self._options.patience:
            return None
        return f"{self._options.metric} has not improved for {stale} evaluations"
