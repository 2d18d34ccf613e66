"""What a backend needs: what this machine lacks, or shards do not allow, is told before step 0.

Nothing heavy is imported with the module: components ask it in their preflight.
"""

from __future__ import annotations

from llmforge.errors import Problem, RecipeError, RunError
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


def require_group(run: RunContext) -> None:
    """Look for the default process group of the run's ranks; a single process makes its own.

    Raises:
        RunError: several processes have none, or one of another size.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_initialized() and run.world_size == 1:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1
        )
    found = dist.get_world_size() if dist.is_initialized() else 0
    if found != run.world_size:
        raise RunError(
            f"the run has {run.world_size} processes, but their group has {found}",
            remedy="start it with 'forge train RECIPE --nproc-per-node N' or torchrun",
        )
