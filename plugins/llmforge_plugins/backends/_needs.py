"""What this machine does not have, and what cannot be trained in shards, told before step 0."""

from __future__ import annotations

from llmforge.errors import Problem, RecipeError
from llmforge.interfaces import RunContext

_WHOLE_MATRICES = {"muon"}
"""Optimizers whose update of a matrix needs all of it."""

STAGE_3_IS_EAGER = "torch.compile cannot follow how ZeRO stage 3 gathers weights"
"""It compiles the hooks that gather, again and again, up to its limit, and gives up on them."""


def machine_problems(run: RunContext) -> list[Problem]:
    """Return what the recipe asks for and this machine, or this process of several, cannot do."""
    from llmforge_plugins.backends._resolve import resolve

    try:
        resolve(run)
    except RecipeError as error:
        return list(error.problems)
    return []


def sharding_problems(run: RunContext, *, backend: str) -> list[Problem]:
    """Return those, and what in a recipe does not go together with weights in shards."""
    from llmforge_plugins.backends._resolve import resolve

    problems: list[Problem] = []
    precision = ""
    try:
        precision = resolve(run).precision
    except RecipeError as error:
        problems += error.problems
    optimizer = run.config.get("optimizer", {}).get("name")
    if optimizer in _WHOLE_MATRICES:
        problems.append(
            Problem(
                key="optimizer.name",
                message=f"{optimizer} needs whole matrices, but backend '{backend}' shards them",
                remedy='set optimizer.name = "adamw", or backend.name = "ddp"',
            )
        )
    if precision == "fp16":
        problems.append(
            Problem(
                key="train.precision",
                message=f"backend '{backend}' has no loss scaling, which fp16 needs",
                remedy='set train.precision = "bf16", or backend.name = "ddp"',
            )
        )
    return problems
