"""A sweep at a glance: its counts, its best trial, how each trial ended."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmforge.interfaces import Point, Space
from llmforge.sweeps.trials import Trial, points


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a sweep stands.

    Attributes:
        states: number of trials by state.
        reused: completed trials that were equal to a run there was already.
        best: the point with the best mean, None before one is completed.
        best_trial: its trial with the best value.
        spread: standard deviation over the best point's seeds, None with one.
        seconds: training time over all trials.
    """

    states: dict[str, int]
    reused: int
    best: Point | None
    best_trial: Trial | None
    spread: float | None
    seconds: float


def summarize(trials: Sequence[Trial], space: Space, *, direction: str) -> Summary:
    """Return how the trials that are in ``space`` stand."""
    own = [trial for trial in trials if space.contains(trial.parameters)]
    sign = 1.0 if direction == "minimize" else -1.0
    done = [point for point in points(own, space) if point.value is not None]
    best = min(done, key=lambda point: sign * (point.value or 0.0), default=None)
    of_best = [
        trial
        for trial in own
        if best is not None and trial.number == best.number and trial.value is not None
    ]
    values = [trial.value for trial in of_best if trial.value is not None]
    return Summary(
        states=dict(Counter(trial.state for trial in own)),
        reused=sum(trial.result is not None and trial.result.reused for trial in own),
        best=best,
        best_trial=min(of_best, key=lambda trial: sign * (trial.value or 0.0), default=None),
        spread=statistics.stdev(values) if len(values) > 1 else None,
        seconds=sum(trial.seconds for trial in own),
    )


def as_row(trial: Trial, space: Space) -> dict[str, Any]:
    """Return everything that is known of one trial as plain values."""
    result = trial.result
    return {
        "number": trial.number,
        "repeat": trial.repeat,
        "state": trial.state,
        "value": trial.value,
        "run": trial.run.get("id", ""),
        "reused": result is not None and result.reused,
        "reason": result.reason if result is not None else "",
        "seconds": round(trial.seconds, 3),
        "attempts": len(trial.attempts),
        "steps": max(trial.curve, default=None),
        "in_space": space.contains(trial.parameters),
        "parameters": space.with_ties(trial.parameters),
    }
