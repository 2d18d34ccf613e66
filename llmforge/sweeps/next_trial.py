"""What a worker does next: a pure answer to how the trials stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmforge.interfaces import Space, Sweeper
from llmforge.recipe.schema import SweepKeys
from llmforge.sweeps.trials import Attempt, Trial, points

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start or resume a trial; fields as of :class:`~llmforge.sweeps.trials.Trial`."""

    number: int
    repeat: int
    attempt: int
    parameters: Mapping[str, Any]
    prunable: bool = True


@dataclass(frozen=True)
class Wait:
    """Nothing to begin, but other workers are at trials that may come back."""


@dataclass(frozen=True)
class Done:
    """Nothing is left to do.

    Attributes:
        reason: why, in words.
        failed: the sweep was given up.
    """

    reason: str
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a sweep is after: its keys, its space and who proposes points of it."""

    keys: SweepKeys
    space: Space
    sweeper: Sweeper


def next_work(
    goal: Goal, trials: Sequence[Trial], *, is_dead: Callable[[Attempt], bool]
) -> Start | Wait | Done:
    """Return what a free worker should do.

    First what was started and is not being done, then pruned trials that the pruner lets continue
    now, then further seeds of a point, then a new point.

    Args:
        goal: of the sweep.
        trials: every trial, of an earlier space too.
        is_dead: whether the process of a running attempt is gone.
    """
    own = [trial for trial in trials if goal.space.contains(trial.parameters)]
    failed = sum(trial.state == "failed" for trial in own)
    if failed > goal.keys.max_failures:
        return Done(f"{failed} trials failed, and max_failures is {goal.keys.max_failures}", True)
    for trial in own:
        left = trial.state == "running" and is_dead(trial.last)
        if left or trial.state == "waiting":
            return _again(trial)
    limit = _limit(goal, own)
    if limit is None:
        found = _promoted(goal, own) or _further_seed(goal, own) or _new_point(goal, trials)
        if found is not None:
            return found
        limit = _all_done(goal, own)
    return Wait() if any(trial.state == "running" for trial in own) else limit


def _limit(goal: Goal, own: Sequence[Trial]) -> Done | None:
    hours = sum(trial.seconds for trial in own) / _SECONDS_PER_HOUR
    if goal.keys.max_hours is not None and hours >= goal.keys.max_hours:
        return Done(f"{hours:.2f} hours of training, and max_hours is {goal.keys.max_hours}")
    return None


def _again(trial: Trial) -> Start:
    return Start(
        number=trial.number,
        repeat=trial.repeat,
        attempt=len(trial.attempts),
        parameters=trial.parameters,
        prunable=trial.last.prunable,
    )


def _promoted(goal: Goal, own: Sequence[Trial]) -> Start | None:
    """Return a pruned trial that may continue after what others have reached since."""
    for trial in own:
        if trial.state == "pruned" and why_prune(goal, trial, own) is None:
            return _again(trial)
    return None


def why_prune(
    goal: Goal, trial: Trial, trials: Sequence[Trial], *, step: int | None = None
) -> str | None:
    """Return why ``trial`` should stop at ``step``, the newest when absent, or None."""
    point = trial.as_point()
    curve = {at: value for at, value in point.curve.items() if step is None or at <= step}
    others = [
        item.as_point()
        for item in trials
        if (item.number, item.repeat) != (trial.number, trial.repeat)
        and item.state != "failed"
        and item.curve
    ]
    state: Literal["running", "pruned"] = "pruned" if trial.state == "pruned" else "running"
    return goal.sweeper.prune(replace(point, state=state, curve=curve), others)


def _further_seed(goal: Goal, own: Sequence[Trial]) -> Start | None:
    """Return the next seed of a point whose earlier seeds have not shown it to be bad."""
    by_number: dict[int, list[Trial]] = {}
    for trial in own:
        by_number.setdefault(trial.number, []).append(trial)
    for number, repeats in by_number.items():
        if len(repeats) < goal.keys.seeds and all(
            trial.state in ("completed", "running") for trial in repeats
        ):
            parameters = repeats[0].parameters
            return Start(number=number, repeat=len(repeats), attempt=0, parameters=parameters)
    return None


def _new_point(goal: Goal, trials: Sequence[Trial]) -> Start | None:
    history = points(trials, goal.space)
    if len(history) >= goal.keys.max_trials:
        return None
    number = max((trial.number for trial in trials), default=-1) + 1
    parameters = goal.sweeper.propose(number, history)
    if parameters is None:
        return None
    # Rounded here, whatever the sweeper is: ids, logs and recipes have values that can be read
    # and typed again.
    rounded = goal.space.rounded(parameters)
    return Start(number=number, repeat=0, attempt=0, parameters=rounded)


def _all_done(goal: Goal, own: Sequence[Trial]) -> Done:
    count = len({trial.number for trial in own})
    if count >= goal.keys.max_trials:
        return Done(f"all {count} trials are done")
    return Done(f"every point of the space was tried: {count}")
