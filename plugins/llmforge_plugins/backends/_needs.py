"""What cannot be trained in shards, told before step 0."""

from __future__ import annotations

from llmforge.errors import Problem
from llmforge.interfaces import RunContext

_WHOLE_MATRICES = {"muon"}
"""Optimizers whose update of a matrix needs all of it."""


def sharding_problems(run: RunContext, *, backend: str) -> list[Problem]:
    """Return what in a recipe does not go together with weights in shards."""
    problems = []
    optimizer = run.config.get("optimizer", {}).get("name")
    if optimizer in _WHOLE_MATRICES:
        problems.append(
            Problem(
                key="optimizer.name",
                message=f"{optimizer} needs whole matrices, but backend '{backend}' shards them",
                remedy='set optimizer.name = "adamw", or backend.name = "ddp"',
            )
        )
    if run.train.precision == "fp16":
        problems.append(
            Problem(
                key="train.precision",
                message=f"backend '{backend}' has no loss scaling, which fp16 needs",
                remedy='set train.precision = "bf16", or backend.name = "ddp"',
            )
        )
    return problems
