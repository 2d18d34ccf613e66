"""What a job of any cluster consists of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmforge.errors import UsageError
from llmforge.recipe import Override, Recipe, load_recipe


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training to start on a cluster.

    Attributes:
        recipe: it, as ``forge train`` takes it.
        arguments: further ones of ``forge train``.
        name: of the job: lower-case letters, digits and hyphens.
        nodes: machines.
        gpus_per_node: GPUs and processes on each; with 0, one process on the CPU of each.
        grace: seconds before the end of its time at which the job is told to save and stop.
        setup: shell lines that run first on every machine.
    """

    recipe: str
    arguments: Sequence[str]
    name: str
    nodes: int = 1
    gpus_per_node: int = 1
    grace: int = 300
    setup: Sequence[str] = ()

    @property
    def processes_per_node(self) -> int:
        """Processes on each machine."""
        return max(1, self.gpus_per_node)

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.nodes * self.processes_per_node


def checked_recipe(
    source: str, *, profile: str | None, overrides: Sequence[Override], world_size: int
) -> Recipe:
    """Return the recipe, found to be sound and to have a batch for ``world_size`` processes.

    Raises:
        RecipeError: it is not sound.
        UsageError: its batch cannot be shared out.
    """
    recipe = load_recipe(source, profile=profile, overrides=list(overrides))
    batch = recipe.train.batch_size
    if batch % world_size:
        raise UsageError(
            f"a batch of {batch} sequences cannot be shared among {world_size} processes",
            remedy=f"set train.batch_size to a multiple of {world_size}, or take other nodes",
        )
    return recipe


def job_name(recipe: Recipe) -> str:
    """Return a name for a job that trains ``recipe``: what clusters take as a host name."""
    text = recipe.run.id or recipe.source.stem
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50].strip("-") or "forge"


def check_name(name: str) -> str:
    """Accept a name that every cluster takes.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?", name):
        raise UsageError(
            f"'{name}' cannot name a job", remedy="lower-case letters, digits and hyphens, up to 50"
        )
    return name
