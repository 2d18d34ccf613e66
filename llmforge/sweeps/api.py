"""The Python interface of sweeps: ``llmforge.sweep``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.recipe.load import Overrides
from llmforge.run.signals import StopSignals
from llmforge.sweeps.controller import Controller, Show
from llmforge.sweeps.outputs import write_outputs
from llmforge.sweeps.summary import as_row, summarize
from llmforge.sweeps.sweep import Sweep, open_sweep


@dataclass(frozen=True, kw_only=True)
class BestTrial:
    """The best point of a sweep.

    Attributes:
        parameters: its values by recipe key.
        value: the sweep's metric, the mean over its seeds.
        spread: standard deviation over its seeds, None with one.
        run_id: its run; ``load_run(run_id)`` opens it.
        recipe: its recipe, which trains as it is.
    """

    parameters: Mapping[str, Any]
    value: float
    spread: float | None
    run_id: str
    recipe: Path


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The result of a sweep.

    Attributes:
        id: the sweep's id.
        directory: where it is.
        reason: why nothing is left to do.
        best: the best point, None when no trial was completed.
        trials: everything known of each trial; ``pandas.DataFrame`` takes them as they are.
    """

    id: str
    directory: Path
    reason: str
    best: BestTrial | None
    trials: list[dict[str, Any]]


def sweep(
    recipe: str | Path,
    *,
    profile: str | None = None,
    overrides: Overrides = (),
    workers: int | None = None,
) -> SweepResult:
    """Try the points of a recipe's space, or resume it, or find that it is done.

    Args:
        recipe: a file, or the name of a shipped recipe.
        profile: the profile to lay over it.
        overrides: ``{"sweep.max_trials": 20}``, or ``["sweep.max_trials=20"]``.
        workers: trials at once on this machine; ``sweep.workers`` when absent.

    Raises:
        RecipeError: the recipe, or a point of its space, has problems.
        Interrupted: a signal stopped it; every trial is saved.
        ForgeError: anything else a user can mend.
    """
    opened = open_sweep(recipe, profile=profile, overrides=overrides)
    with StopSignals() as signals, signals.deferred():
        reason = work(opened, workers=workers, signals=signals)
    trials = opened.ledger().trials()
    summary = summarize(trials, opened.space, direction=opened.recipe.sweep.direction)
    best = None
    if summary.best is not None and summary.best_trial is not None:
        best = BestTrial(
            parameters=opened.space.with_ties(summary.best.parameters),
            value=summary.best.value or 0.0,
            spread=summary.spread,
            run_id=summary.best_trial.run.get("id", ""),
            recipe=opened.directory.best,
        )
    return SweepResult(
        id=opened.id,
        directory=opened.directory.path,
        reason=reason,
        best=best,
        trials=[as_row(trial, opened.space) for trial in trials],
    )


def work(
    opened: Sweep, *, workers: int | None, signals: StopSignals, show: Show = lambda _: None
) -> str:
    """Work on a sweep until nothing is left, and write its outputs; return why it is done.

    Raises:
        Interrupted: it was asked to stop; every trial is saved.
        ForgeError: the sweep was given up, or a worker cannot continue.
    """
    count = workers or opened.recipe.sweep.workers
    try:
        return Controller(opened, workers=count, signals=signals, show=show).run().reason
    finally:
        write_outputs(opened)
