"""Several processes of one run, started by ``forge train --nproc-per-node`` or one by one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from forge_process import PATIENCE_SECONDS, ForgeProcess, Workplace, environment

TWO = ("--nproc-per-node", "2")


def pids(launcher: ForgeProcess) -> dict[int, int]:
    """Return the processes a launcher has started, by rank."""
    children = Path(f"/proc/{launcher.process.pid}/task/{launcher.process.pid}/children")
    found = {}
    for pid in children.read_text(encoding="ascii").split():
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"RANK="):
                found[int(entry[5:])] = int(pid)
    return found


def send(launcher: ForgeProcess, number: signal.Signals, *, rank: int) -> None:
    """Send a signal to one rank."""
    os.kill(pids(launcher)[rank], number)


def wait_until_gone(processes: dict[int, int]) -> None:
    """Wait until none of the processes is left."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(_runs(pid) for pid in processes.values()):
        assert time.monotonic() < deadline, "a process does not end"
        time.sleep(0.05)


def as_slurm_would(
    workplace: Workplace, *arguments: tuple[str, ...]
) -> list[subprocess.Popen[str]]:
    """Start one process for each tuple of further arguments, as tasks of one step of Slurm."""
    started = []
    for rank, extra in enumerate(arguments):
        variables = {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_ID": "0",
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_NTASKS": str(len(arguments)),
            "SLURM_STEP_TASKS_PER_NODE": str(len(arguments)),
            "SLURM_STEP_NODELIST": "localhost",
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "llmforge", "train", "recipe.toml", *extra],
                cwd=workplace.path,
                env={**environment(workplace), **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
    return started


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
