"""Number formats of a CPU: measured once for a run, and a warning where they are slow here."""

from __future__ import annotations

import dataclasses

import torch

from llmforge.distributed import Team
from llmforge.interfaces import MatmulSpeed, Resolution, RunContext
from llmforge.matmul_speed import measure_matmul_speed

MATMUL_SPEED = "matmul_speed"
"""Where the record's ``resolved`` has what was measured for bf16."""


def with_matmul_speed(run: RunContext, *, team: Team) -> RunContext:
    """Return ``run`` with the speed of its CPU: as recorded, else as the leader measures it now.

    Number formats derive from it. So all ranks have the leader's, and a resume has that of the
    first start, whatever machine it is on. A run on a GPU has none.
    """
    speed = _speed(run) if team.place.is_leader and _is_on_cpu(run) else None
    return dataclasses.replace(run, matmul_speed=team.broadcast(speed))


def slow_bf16(run: RunContext, resolution: Resolution) -> str | None:
    """Return a warning when the run computes in bf16 on a CPU where that is the slower format."""
    if torch.device(resolution.device).type != "cpu":
        return None
    slowdown = measure_matmul_speed().slowdown()
    if slowdown is None:
        return None
    if run.train.precision == "bf16":
        return f'train.precision = "bf16" costs time on this CPU, "fp32" does not: {slowdown}'
    if resolution.precision == "bf16" or (run.matmul_speed and run.matmul_speed.bf16_is_native):
        return (
            "the run started with native bf16 and keeps its number formats, "
            f"but on this CPU {slowdown}"
        )
    return None


def _is_on_cpu(run: RunContext) -> bool:
    if run.train.device != "auto":
        return run.train.device == "cpu"
    return run.resolved.get("device") == "cpu" or not (
        torch.cuda.is_available() or torch.backends.mps.is_available()
    )


def _speed(run: RunContext) -> MatmulSpeed:
    kept = run.resolved.get(MATMUL_SPEED)
    if kept is not None:
        return MatmulSpeed(**kept)
    speed = measure_matmul_speed()
    if run.resolved.get("device") == "cpu":  # started before this was recorded: bf16 throughout
        return dataclasses.replace(speed, bf16_is_native=True)
    return speed
