"""Trials and how they stand, read out of the attempts that the ledger keeps."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llmforge.interfaces import Point, Space

Outcome = Literal["completed", "pruned", "failed", "interrupted", "requeued"]
TrialState = Literal["running", "waiting", "completed", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """How an attempt ended.

    Attributes:
        outcome: an ``interrupted`` or ``requeued`` trial waits to continue.
        value: the objective, when completed.
        reason: why it ended, in words.
        seconds: how long the attempt took.
        reused: an equal run was complete already, and nothing was trained.
        killed: a signal from outside ended the process, and not the trial itself.
    """

    outcome: Outcome
    value: float | None = None
    reason: str = ""
    seconds: float = 0.0
    reused: bool = False
    killed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as the ledger keeps it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One process's work on a trial.

    Attributes:
        entry: id in the ledger.
        number: 0 for the first attempt at the trial, and so on without a gap.
        token: made by the process that asked for it: who owns the attempt.
        worker: that process, see :mod:`llmforge.sweeps.liveness`.
        prunable: whether it may be pruned.
        began: seconds since the epoch.
        beat: the newest sign of life, in seconds since the epoch.
        run: ``id`` and ``identity`` of its run, once known.
        curve: the objective by step, of this attempt alone.
        pruned: why it was asked to stop early, once it was.
        result: how it ended; None while it runs.
    """

    entry: int
    number: int
    token: str
    worker: Mapping[str, Any] = field(default_factory=dict)
    prunable: bool = True
    began: float = 0.0
    beat: float = 0.0
    run: Mapping[str, str] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)
    pruned: str = ""
    result: Result | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a point: the unit of work.

    Attributes:
        number: of the point.
        repeat: which of the point's seeds, from 0.
        parameters: the point, without tied values.
        attempts: everything that was done for it, in order.
    """

    number: int
    repeat: int
    parameters: Mapping[str, Any]
    attempts: tuple[Attempt, ...]

    @property
    def last(self) -> Attempt:
        """The newest attempt."""
        return self.attempts[-1]

    @property
    def result(self) -> Result | None:
        """What counts of the attempts' results: a completion, else the newest attempt's."""
        ended = [item.result for item in self.attempts if item.result is not None]
        done = next((item for item in ended if item.outcome == "completed"), None)
        return done or self.last.result

    @property
    def state(self) -> TrialState:
        """Where the trial stands."""
        result = self.result
        if result is None:
            return "running"
        if result.outcome == "interrupted" or result.outcome == "requeued":
            return "waiting"
        return result.outcome

    @property
    def value(self) -> float | None:
        """The objective of a completed trial."""
        return self.result.value if self.result is not None else None

    @property
    def kills(self) -> int:
        """How many of the newest ended attempts were killed from outside, one after the other."""
        ended = [item.result for item in self.attempts if item.result is not None]
        return next((back for back, it in enumerate(reversed(ended)) if not it.killed), len(ended))

    @property
    def run(self) -> Mapping[str, str]:
        """``id`` and ``identity`` of its run, empty before that is known."""
        return next((item.run for item in reversed(self.attempts) if item.run), {})

    @property
    def curve(self) -> dict[int, float]:
        """The objective by step, over all attempts."""
        values = {step: value for item in self.attempts for step, value in item.curve.items()}
        return dict(sorted(values.items()))

    @property
    def seconds(self) -> float:
        """Time that ended attempts took."""
        return sum(item.result.seconds for item in self.attempts if item.result is not None)

    def as_point(self) -> Point:
        """Return the trial as a sweeper sees it that compares runs."""
        return Point(
            number=self.number,
            parameters=self.parameters,
            state=_point_state(self.state),
            value=self.value if self.state == "completed" else None,
            curve=self.curve,
        )


def points(trials: Iterable[Trial], space: Space) -> list[Point]:
    """Return the points that are in ``space``, each with the mean over its completed trials."""
    by_number: dict[int, list[Trial]] = {}
    for trial in trials:
        if space.contains(trial.parameters):
            by_number.setdefault(trial.number, []).append(trial)
    return [_point(number, by_number[number]) for number in sorted(by_number)]


def _point(number: int, trials: Sequence[Trial]) -> Point:
    states = [_point_state(trial.state) for trial in trials]
    order: tuple[Literal["running", "completed", "pruned"], ...]
    order = ("running", "completed", "pruned")
    values = [item.value for item in trials if item.state == "completed" and item.value is not None]
    return Point(
        number=number,
        parameters=trials[0].parameters,
        state=next((state for state in order if state in states), "failed"),
        value=statistics.fmean(values) if values else None,
        curve=trials[0].curve,
    )


def _point_state(state: TrialState) -> Literal["running", "completed", "pruned", "failed"]:
    return "running" if state == "waiting" else state
