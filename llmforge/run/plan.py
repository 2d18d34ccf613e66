"""From a recipe to what will run, and its components, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from llmforge.component import Component
from llmforge.distributed import Place
from llmforge.errors import Problem, RunError
from llmforge.events import TrialEnded, TrialStarted
from llmforge.interfaces import RunContext
from llmforge.plugins import build_manager, collect, load
from llmforge.recipe import Identity, Recipe, identity, run_id
from llmforge.recipe.schema import parse_interval
from llmforge.run.setup.another_recipe import another_recipe
from llmforge.run.trace_range import TraceRange
from llmforge.rundir import Completion, RunDirectory, RunRecord, read_completion, read_record
from llmforge.rundir.context import run_context

_ALONE = Place()

IN_PROCESS_KINDS = (
    "model",
    "adapter",
    "tokenizer",
    "data",
    "objective",
    "optimizer",
    "schedule",
    "backend",
    "generation",
    "metric",
    "callback",
)
"""Kinds whose components live in the training process; trackers live in the courier."""


class TrialLink(Protocol):
    """Ties a run to its sweep.

    Attributes:
        sweep_id: the sweep.
        watcher: a callback that hears the run's events beside the recipe's own.
    """

    sweep_id: str
    watcher: Component

    def started(self, run_id: str) -> TrialStarted:
        """Return the event that follows the run's start."""
        ...

    def ended(self, run_id: str, state: str) -> TrialEnded:
        """Return the event that precedes the run's end in ``state``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe amounts to on this machine: the run's id, place and identity.

    ``trial`` ties it to the sweep it is part of, if any; ``trace`` is what of this start is traced.
    """

    recipe: Recipe
    identity: Identity
    directory: RunDirectory
    trial: TrialLink | None = None
    trace: TraceRange | None = None

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


def make_plan(
    recipe: Recipe, *, trial: TrialLink | None = None, trace: TraceRange | None = None
) -> Plan:
    """Return the plan of ``recipe``; ``trial`` ties it to a sweep, ``trace`` names steps to trace.

    Raises:
        UsageError: the recipe alone says that these steps never come.
    """
    if trace is not None and recipe.train.max_steps is not None:
        end = parse_interval(recipe.train.extend_to)
        if not isinstance(end, Fraction):  # epochs: the data decide
            trace.require_ahead(
                taken=0,
                last_step=max(recipe.train.max_steps, end or 0),
                stop_at=recipe.train.stop_at,
            )
    root = Path(recipe.run.root).expanduser()
    directory = RunDirectory(root / run_id(recipe))
    return Plan(
        recipe=recipe, identity=identity(recipe), directory=directory, trial=trial, trace=trace
    )


def check_identity(plan: Plan, record: RunRecord) -> None:
    """Refuse to continue a run with a recipe that is not its own.

    Raises:
        RunError: the identity differs; the message lists the keys and both values.
    """
    if record.identity.get("hash") != plan.identity.hash:
        raise another_recipe(plan, record.identity.get("keys", {}), "started")


class Components:
    """Fresh instances of the plan's components, and the run's one plugin manager."""

    def __init__(self, plan: Plan) -> None:
        self._all: list[Component] = [
            component for selected in plan.components().values() for component in selected
        ]
        if plan.trial is not None:
            self._all.append(plan.trial.watcher)
        self.manager = build_manager(self._all)

    def preflight(self, run: RunContext) -> list[Problem]:
        """Return everything that would stop a component later."""
        problems = [problem for item in self._all for problem in item.missing_packages()]
        for found in self.manager.hook.forge_preflight(run=run):
            problems += found
        return problems

    def restore(self, states: Mapping[str, Any]) -> None:
        """Give each component back the state it had in the checkpoint."""
        for component in self._all:
            saved = states.get(f"{component.kind}:{component.name}")
            if saved is not None:
                component.restore_state(saved)

    def state(self, run: RunContext) -> dict[str, Any]:
        """Return the components' state by ``kind:name``, for a checkpoint."""
        return collect(self.manager, "forge_checkpoint_state", run=run)

    def extra_metrics(self, run: RunContext, step: int) -> dict[str, float]:
        """Return what components want logged at ``step``."""
        values: dict[str, float] = {}
        for found in self.manager.hook.forge_extra_metrics(run=run, step=step):
            values |= found
        return values

    def stop_reason(self, run: RunContext, step: int) -> str | None:
        """Return why a component wants the run to stop, or None."""
        return next(iter(self.manager.hook.forge_stop_reason(run=run, step=step)), None)


def _kept_keys(directory: RunDirectory) -> Mapping[str, Any]:
    """Return the identity of a run as its own record has it, nothing when that is gone."""
    try:
        return read_record(directory).identity.get("keys", {})
    except RunError:
        return {}
