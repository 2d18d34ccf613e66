"""The process group that sharding engines work over."""

from __future__ import annotations

import torch
import torch.distributed as dist

from llmforge.errors import RunError
from llmforge.interfaces import RunContext


def require_group(run: RunContext) -> None:
    """Look for the default process group of the run's ranks; a single process makes its own.

    Raises:
        RunError: several processes have none, or one of another size.
    """
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
