"""What the step loop gives out, rows of numbers and histograms, and where it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llmforge.data.batches import TrainBatches
from llmforge.data.example_batches import ExampleBatches
from llmforge.errors import ForgeError
from llmforge.events import EvaluationEnded, Event, MetricsLogged
from llmforge.recipe import Recipe
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.trainer_state import TrainerState
from llmforge.run.training.loss_average import LossTotals
from llmforge.run.training.throughput import Pace

_NOT_A_SPEED = ("step", "time", "eta_seconds")

BINS = 64
"""Bins of every histogram, of equal width between the smallest and the largest value."""

_CHUNK = 1 << 22  # float32 counts are exact up to 2^24
_NARROWEST = 1e-6  # of the values' size: edges closer than this would coincide as float32


@dataclass(frozen=True, kw_only=True)
class LoopOutputs:
    """Where the loop's results go; all return at once.

    Attributes:
        row: takes the deterministic row and the timing row of a step.
        event: takes an event for callbacks and the courier.
        samples: generates and records samples at a step.
        samples_due: whether there are to be any at a step.
        micro_batch: told the micro-batch that turned out to fit; keeps it for the next start.
        evaluation_rows: the same for the windows that are evaluated at once.
        extra_metrics: asks components for further values at a step.
        stop_reason: asks components whether to stop.
        failure: returns what ends the run once it is saved, such as a tracker's failure, or None.
        secure: waits until the checkpoint of a step is in storage; None, on all ranks, when
            nothing waits.
        component_state: asks components for the state to keep.
        metadata: makes a checkpoint's ``metadata.json`` from the state.
    """

    row: Callable[[Mapping[str, Any], Mapping[str, Any]], None]
    event: Callable[[Event], None]
    samples: Callable[[int], object]
    samples_due: Callable[[int], bool]
    micro_batch: Callable[[int], None]
    evaluation_rows: Callable[[int], None]
    extra_metrics: Callable[[int], Mapping[str, float]]
    stop_reason: Callable[[int], str | None]
    failure: Callable[[], ForgeError | None]
    secure: Callable[[int], None] | None
    component_state: Callable[[], dict[str, Any]]
    metadata: Callable[[TrainerState], dict[str, Any]]


class Rows:
    """Makes the rows of a run and gives them out: to its files, to trackers, to the terminal.

    Args:
        recipe: what is trained.
        state: of the run.
        batches: knows the epochs and tokens that so many sequences are.
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
        batches: TrainBatches | ExampleBatches,
        totals: LossTotals,
        pace: Pace,
        outputs: LoopOutputs,
        reporter: Reporter,
        stop_at: int,
    ) -> None:
        self._recipe = recipe
        self._state = state
        self._batches = batches
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
            "epoch": round(self._batches.epoch(state.sequences), 6),
            "tokens_seen": self._batches.tokens(state.sequences),
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


def histograms(tensors: Mapping[str, torch.Tensor], *, group: str) -> dict[str, dict[str, object]]:
    """Return ``{"edges": [...], "counts": [...]}`` of each tensor as ``group/name``.

    They are computed where the tensors lie, which stay as they are.

    ``edges`` are ``BINS + 1`` rising numbers, ``counts`` whole ones. Values that are not finite
    are left out; a tensor without finite values has no histogram. Reading waits for the device.
    """
    found = {}
    for name, tensor in tensors.items():
        values = tensor.detach().flatten()
        limits = _limits(values)
        if limits is not None:
            found[f"{group}/{name}"] = _histogram(values, *limits)
    return found


def _limits(values: torch.Tensor) -> tuple[float, float] | None:
    """Return the smallest and the largest finite value, None when there is none."""
    if values.numel() == 0:
        return None
    low, high = (float(limit) for limit in values.aminmax())
    if low == low and abs(low) != float("inf") and abs(high) != float("inf"):
        return low, high
    finite = values[values.isfinite()]
    return _limits(finite) if finite.numel() else None


def _histogram(values: torch.Tensor, low: float, high: float) -> dict[str, object]:
    narrowest = _NARROWEST * max(abs(low), abs(high))
    if high - low <= narrowest:
        low, high = low - (narrowest or 0.5), high + (narrowest or 0.5)
    counts = torch.zeros(BINS, dtype=torch.int64, device=values.device)
    for chunk in values.split(_CHUNK):
        counts += torch.histc(chunk.float(), BINS, low, high).long()
    width = (high - low) / BINS
    edges = [float(f"{low + index * width:.9g}") for index in range(BINS + 1)]
    return {"edges": edges, "counts": counts.tolist()}
