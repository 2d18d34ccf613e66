"""The row of numbers of a logged step, and everyone who is notified of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from llmforge.events import EvaluationEnded, MetricsLogged
from llmforge.recipe import Recipe
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.trainer_state import TrainerState
from llmforge.run.training.loop_outputs import LoopOutputs
from llmforge.run.training.loss_average import LossTotals
from llmforge.run.training.throughput import Pace

_NOT_A_SPEED = ("step", "time", "eta_seconds")


class Rows:
    """Makes the rows of a run and gives them out: to its files, to trackers, to the terminal.

    Args:
        recipe: what is trained.
        state: of the run.
        epoch: returns the epochs that so many sequences are.
        totals: sums of losses.
        pace: times the steps.
        outputs: takes rows and events, and knows of further values.
        reporter: shows progress.
        stop_at: the step this start goes to.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        state: TrainerState,
        epoch: Callable[[int], float],
        totals: LossTotals,
        pace: Pace,
        outputs: LoopOutputs,
        reporter: Reporter,
        stop_at: int,
    ) -> None:
        self._recipe = recipe
        self._state = state
        self._epoch = epoch
        self._totals = totals
        self._pace = pace
        self._outputs = outputs
        self._reporter = reporter
        self._stop_at = stop_at

    def training(self, *, ends_epoch: bool) -> dict[str, Any]:
        """Return the row of the step that was just taken, before any evaluation."""
        state = self._state
        window, epoch = self._totals.means()
        row: dict[str, Any] = {
            "step": state.step,
            "epoch": round(self._epoch(state.sequences), 6),
            "tokens_seen": state.sequences * self._recipe.context,
            "train/loss": window,
            "lr": state.learning_rate,
            "grad_norm": self._totals.grad_norm(),
        }
        if ends_epoch:
            row["train/loss_epoch"] = epoch
        return row | dict(self._outputs.extra_metrics(state.step))

    def emit(
        self, row: Mapping[str, Any], evaluated: Mapping[str, float], *, is_best: bool
    ) -> None:
        """Write ``row`` with its timing, and tell everyone.

        Args:
            row: of this step, what was evaluated included.
            evaluated: values of an evaluation at this step; empty without one.
            is_best: whether that was the best so far.
        """
        timing = self._pace.row(row["step"])
        self._outputs.row(row, timing)
        speed = {
            f"speed/{name}": value for name, value in timing.items() if name not in _NOT_A_SPEED
        }
        self._tell(row, evaluated, speed, is_best=is_best, now=timing["time"])
        if evaluated:
            self._reporter.evaluation(row["step"], evaluated, is_best=is_best)
        self._reporter.step(row, timing, total=self._stop_at)
        self._pace.lap("logging")

    def tell_again(self, row: Mapping[str, Any]) -> None:
        """Tell of an earlier start's last row; trackers that know it get none of it twice."""
        state = self._state
        evaluated = {name: value for name, value in state.last_evaluation.items() if name in row}
        is_best = state.best is not None and state.best.step == state.step
        self._tell(row, evaluated, {}, is_best=is_best, now=time.time())

    def _tell(
        self,
        row: Mapping[str, Any],
        evaluated: Mapping[str, float],
        speed: Mapping[str, Any],
        *,
        is_best: bool,
        now: float,
    ) -> None:
        step = row["step"]
        numbers = {
            name: value for name, value in row.items() if name != "step" and name not in evaluated
        }
        self._outputs.event(MetricsLogged(step=step, values={**numbers, **speed}, time=now))
        if evaluated:
            self._outputs.event(
                EvaluationEnded(
                    step=step, split="validation", values=evaluated, time=now, is_best=is_best
                )
            )
