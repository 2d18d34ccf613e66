"""What each worker on this machine computes with: its GPUs, its share of the processor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from llmforge.errors import UsageError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_THREADS = "OMP_NUM_THREADS"
_DRIVER = Path("/proc/driver/nvidia/gpus")


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if VISIBLE in environment:
        return [name for name in environment[VISIBLE].split(",") if name.strip() not in ("", "-1")]
    count = len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0
    return [str(index) for index in range(count)]


def shares(
    workers: int, *, gpus: list[str], per_trial: int | None, environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the variables that give each worker's trials their own part of the machine.

    Raises:
        UsageError: there are fewer GPUs than were asked for.
    """
    each = per_trial if per_trial is not None else int(bool(gpus) and len(gpus) >= workers)
    if each * workers > len(gpus):
        raise UsageError(
            f"{workers} workers with {each} GPUs per trial need {each * workers}, and "
            f"{len(gpus)} are here",
            remedy=f"fewer --workers, or sweep.gpus_per_trial = {len(gpus) // workers}",
        )
    threads = {}
    if workers > 1 and _THREADS not in environment:
        # Otherwise each trial would use every core, and all would wait for each other.
        threads[_THREADS] = str(max((os.cpu_count() or 1) // workers, 1))
    return [
        {**threads, **_own_gpus(gpus[index * each : (index + 1) * each])}
        for index in range(workers)
    ]


def _own_gpus(gpus: list[str]) -> dict[str, str]:
    return {VISIBLE: ",".join(gpus)} if gpus else {}
