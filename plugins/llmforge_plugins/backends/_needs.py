"""What cannot be trained in shards, told before step 0."""

from __future__ import annotations

from llmforge.errors import Problem, RunError
from llmforge.interfaces import Resolution, RunContext

_WHOLE_MATRICES = {"muon"}
"""Optimizers whose update of a matrix needs all of it."""

STAGE_3_IS_EAGER = "torch.compile cannot follow how ZeRO stage 3 gathers weights"
"""It compiles the hooks that gather, again and again, up to its limit, and gives up on them."""

_NO_SCALING = "backend '{backend}' has no loss scaling, which fp16 needs"
_USE_BF16 = 'set train.precision = "bf16", or backend.name = "ddp"'


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
                message=_NO_SCALING.format(backend=backend),
                remedy=_USE_BF16,
            )
        )
    return problems


def refuse_fp16(resolution: Resolution, *, backend: str) -> None:
    """Refuse what ``precision = "auto"`` may become, which :func:`sharding_problems` cannot see.

    Raises:
        RunError: it is fp16.
    """
    if resolution.precision == "fp16":
        raise RunError(_NO_SCALING.format(backend=backend), remedy=_USE_BF16)
