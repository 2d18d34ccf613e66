"""Real sweeps of real tiny runs: begin them, stop them, and read what they left behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge_process import RECIPE, ForgeProcess, Workplace

from llmforge.rundir import RunDirectory

PATIENCE_SECONDS = 900.0
"""For a sweep of four trials on a machine that is busy with other things."""

SWEEP = """
[sweep]
id = "s"
name = "grid"
max_trials = 4
[sweep.grid]
pruner = "asha"
steps_per_rung = 10
reduction = 2
rungs = 2
[sweep.space]
optimizer.adamw.lr = {choice = [3e-3, 1e-5]}
train.batch_size = {choice = [8, 4]}
"""
"""Four trials, the last two so slow to learn that they are pruned."""


@dataclass
class SweepPlace(Workplace):
    """A workplace whose recipe sweeps.

    Attributes:
        recipe: the recipe, ``[sweep]`` included.
    """

    recipe: str = RECIPE.replace("max_steps = 60", "max_steps = 30") + SWEEP

    @property
    def directory(self) -> Path:
        """The sweep's directory."""
        return self.path / "runs" / "sweeps" / "s"

    def begin(self, *arguments: str) -> ForgeProcess:
        """Start ``forge sweep`` on the recipe."""
        return self.forge("sweep", "recipe.toml", *self._settings(), *arguments)

    def sweep(self, *arguments: str, expect: int = 0) -> str:
        """Run ``forge sweep`` to its end; return what it printed."""
        return self.begin(*arguments).finish(expect=expect, within=PATIENCE_SECONDS).output

    def trials(self) -> list[dict[str, Any]]:
        """Return the trials as ``forge sweep show --json`` has them."""
        found: list[dict[str, Any]] = json.loads(self.forge_here("sweep", "show", "s", "--json"))
        return found

    def run_of(self, trial: dict[str, Any]) -> RunDirectory:
        """Return the run of a trial."""
        return RunDirectory(self.path / "runs" / trial["run"])
