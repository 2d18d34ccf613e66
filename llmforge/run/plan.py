"""From a recipe to what will run, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from llmforge.component import Component
from llmforge.distributed import Place
from llmforge.errors import RunError
from llmforge.interfaces import RunContext
from llmforge.plugins import load
from llmforge.recipe import Identity, Recipe, identity, run_id
from llmforge.recipe.schema import parse_interval
from llmforge.run.setup.another_recipe import another_recipe
from llmforge.run.trial import TrialLink
from llmforge.rundir import Completion, RunDirectory, RunRecord, read_completion, read_record
from llmforge.rundir.context import run_context

_ALONE = Place()

IN_PROCESS_KINDS = (
    "model",
    "tokenizer",
    "data",
    "optimizer",
    "schedule",
    "backend",
    "generation",
    "callback",
)
"""Kinds whose components live in the training process; trackers live in the courier."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe amounts to on this machine: the run's id, place and identity.

    ``trial`` ties it to the sweep it is part of, if any.
    """

    recipe: Recipe
    identity: Identity
    directory: RunDirectory
    trial: TrialLink | None = None

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.directory.id

    @property
    def root(self) -> Path:
        """The directory that holds all runs."""
        return self.directory.root

    def completion(self) -> Completion | None:
        """Return the completion that lets this command be skipped, or None.

        A run that ended before the step ``train.extend_to`` asks for is not done.

        Raises:
            RunError: the id is complete, but for another recipe.
        """
        found = read_completion(self.root, self.run_id)
        if found is None:
            return None
        if found.identity != self.identity.hash:
            raise another_recipe(self, found.keys or _kept_keys(self.directory), "completed")
        extension = parse_interval(self.recipe.train.extend_to)
        done = found.epochs if isinstance(extension, Fraction) else found.steps
        return None if extension is not None and extension > done else found

    def components(self) -> dict[str, tuple[Component, ...]]:
        """Return fresh instances of the components that live in the training process."""
        return {
            kind: tuple(
                load(kind, selection.name)(selection.options)
                for selection in self.recipe.selections.get(kind, ())
            )
            for kind in IN_PROCESS_KINDS
        }

    def context(
        self,
        *,
        resolved: Mapping[str, object],
        notice: Callable[[str], None],
        place: Place = _ALONE,
    ) -> RunContext:
        """Return what components of the process at ``place`` may know about the run."""
        return run_context(
            self.directory,
            self.recipe,
            total_steps=self.recipe.train.max_steps or 0,
            schedule_steps=self.recipe.train.max_steps or 0,
            resolved=resolved,
            notice=notice,
            rank=place.rank,
            world_size=place.world_size,
            local_rank=place.local_rank,
        )


def make_plan(recipe: Recipe, *, trial: TrialLink | None = None) -> Plan:
    """Return the plan of ``recipe``; ``trial`` ties it to a sweep."""
    root = Path(recipe.run.root).expanduser()
    directory = RunDirectory(root / run_id(recipe))
    return Plan(recipe=recipe, identity=identity(recipe), directory=directory, trial=trial)


def check_identity(plan: Plan, record: RunRecord) -> None:
    """Refuse to continue a run with a recipe that is not its own.

    Raises:
        RunError: the identity differs; the message lists the keys and both values.
    """
    if record.identity.get("hash") != plan.identity.hash:
        raise another_recipe(plan, record.identity.get("keys", {}), "started")


def _kept_keys(directory: RunDirectory) -> Mapping[str, Any]:
    """Return the identity of a run as its own record has it, nothing when that is gone."""
    try:
        return read_record(directory).identity.get("keys", {})
    except RunError:
        return {}
