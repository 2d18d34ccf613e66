"""What a job of any cluster consists of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmforge.errors import UsageError
from llmforge.recipe import Recipe, load_recipe, parse_set


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training to start on a cluster.

    Attributes:
        source: the recipe, as ``forge train`` takes it.
        arguments: the options of ``forge train`` that it was read with.
        recipe: what they come to.
        name: of the job: lower-case letters, digits and hyphens.
        nodes: machines.
        gpus_per_node: GPUs and processes on each; with 0, one process on the CPU of each.
        grace: seconds before the end of its time at which the job is asked to save and stop.
        setup: shell lines that run first on every machine.
    """

    source: str
    arguments: Sequence[str]
    recipe: Recipe
    name: str
    nodes: int
    gpus_per_node: int
    grace: int
    setup: Sequence[str]

    @property
    def processes_per_node(self) -> int:
        """Processes on each machine."""
        return max(1, self.gpus_per_node)

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.nodes * self.processes_per_node


def make_job(
    source: str,
    *,
    profile: str | None,
    assignments: Sequence[str],
    name: str | None,
    nodes: int,
    gpus_per_node: int,
    grace: int,
    setup: Sequence[str],
) -> Job:
    """Return a job whose recipe is sound and has a batch for all its processes.

    Args:
        source: the recipe.
        profile: of the recipe.
        assignments: ``KEY=VALUE``, as ``--set`` takes them.
        name: of the job; None for the recipe's.
        nodes: machines.
        gpus_per_node: of each.
        grace: seconds to save in.
        setup: shell lines to run first.

    Raises:
        RecipeError: the recipe is not sound.
        UsageError: its batch cannot be shared out, or the name cannot be a job's.
    """
    overrides = [parse_set(text) for text in assignments]
    recipe = load_recipe(source, profile=profile, overrides=overrides)
    chosen = [] if profile is None else ["--profile", profile]
    job = Job(
        source=source,
        arguments=[*chosen, *(part for text in assignments for part in ("--set", text))],
        recipe=recipe,
        name=_checked_name(_job_name(recipe) if name is None else name),
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        grace=grace,
        setup=setup,
    )
    batch = recipe.train.batch_size
    if batch % job.world_size:
        raise UsageError(
            f"a batch of {batch} sequences cannot be divided among {job.world_size} processes",
            remedy=f"set train.batch_size to a multiple of {job.world_size}, or take other nodes",
        )
    return job


def _job_name(recipe: Recipe) -> str:
    """Return a name for a job that trains ``recipe``: what clusters take as a host name."""
    text = recipe.run.id or recipe.source.stem
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50].strip("-") or "forge"


def _checked_name(name: str) -> str:
    """Return a name that every cluster takes."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?", name):
        raise UsageError(
            f"'{name}' is not a valid job name",
            remedy="lower-case letters, digits and hyphens, up to 50",
        )
    return name
