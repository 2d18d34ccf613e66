"""Small sweeps on the simulated surface, shared by the tests of sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmforge.interfaces import Dimension, Space, Sweeper
from llmforge.plugins import build_manager, call_factory, load
from llmforge.recipe.schema import SweepKeys
from llmforge.sweeps.ledger import Ledger
from llmforge.sweeps.next_trial import Goal
from llmforge.sweeps.trial_storage import open_storage
from llmforge.sweeps.trials import Trial

RATE = "optimizer.adamw.lr"
BATCH = "train.batch_size"

SPACE = Space(
    dimensions=(
        Dimension(key=BATCH, kind="choice", choices=(4, 8, 16)),
        Dimension(key=RATE, kind="float", low=1e-4, high=1e-1, log=True),
    )
)
GRID = Space(
    dimensions=(
        Dimension(key=BATCH, kind="choice", choices=(4, 8, 16)),
        Dimension(key=RATE, kind="choice", choices=(1e-3, 1e-2)),
    )
)


def make_sweeper(
    name: str,
    space: Space = SPACE,
    *,
    direction: str = "minimize",
    seed: int = 0,
    **options: Any,
) -> Sweeper:
    """Build one of the built-in sweepers as the core does."""
    component = load("sweep", name)
    plugin = component(component.Options(**options))
    built: Sweeper = call_factory(
        build_manager([plugin]), "forge_build_sweeper", space=space, direction=direction, seed=seed
    )
    return built


def make_goal(
    name: str = "random",
    space: Space = SPACE,
    *,
    options: dict[str, Any] | None = None,
    **keys: Any,
) -> Goal:
    """Return what a sweep over ``space`` is after; ``keys`` as in ``[sweep]``."""
    sweep = SweepKeys(**{"max_trials": 6, **keys})
    sweeper = make_sweeper(
        name, space, direction=sweep.direction, seed=sweep.seed, **(options or {})
    )
    return Goal(keys=sweep, space=space, sweeper=sweeper)


def open_ledger(folder: Path) -> Ledger:
    """Open the ledger of the sweep in ``folder``, as another process would."""
    return Ledger(open_storage(None, journal=folder / "journal.log"), "sweep")


def told(trials: list[Trial]) -> list[tuple[int, int, str]]:
    """Return number, repeat and state of each trial."""
    return [(trial.number, trial.repeat, trial.state) for trial in trials]
