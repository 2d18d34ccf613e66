"""Which process of how many this one is, from the variables of whoever started it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from llmforge.errors import UsageError

_PORTS = 10_000, 20_000  # first and count of those that jobs of a cluster are spread over


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process stands among those that train a run together.

    Attributes:
        rank: its index among all; rank 0 is the leader.
        local_rank: its index among those of its machine.
        world_size: how many there are.
        local_world_size: how many there are on its machine.
        node: index of its machine.
        master: address and port where all meet; None when the process is alone.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    node: int = 0
    master: tuple[str, int] | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this process owns the run directory and the terminal."""
        return self.rank == 0

    def export(self, environ: MutableMapping[str, str]) -> None:
        """Set the variables that torch.distributed and what builds on it read.

        Those that are set already stay.
        """
        values: dict[str, str | int] = {
            "RANK": self.rank,
            "LOCAL_RANK": self.local_rank,
            "WORLD_SIZE": self.world_size,
            "LOCAL_WORLD_SIZE": self.local_world_size,
        }
        if self.master is not None:
            values |= {"MASTER_ADDR": self.master[0], "MASTER_PORT": self.master[1]}
        for name, value in values.items():
            environ.setdefault(name, str(value))


def find_place(environ: Mapping[str, str] = os.environ) -> Place:
    """Return the place of this process.

    torchrun's variables come first, which Kubernetes' training operators set too (``RANK``,
    ``WORLD_SIZE``, ``MASTER_ADDR`` …); then those of a Slurm step (``SLURM_PROCID`` …). Without
    either the process is alone.

    Raises:
        UsageError: the variables contradict each other.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _checked(_of_torchrun(environ))
    if _is_task_of_a_step(environ):
        return _checked(_of_slurm(environ))
    return Place()


def _of_torchrun(environ: Mapping[str, str]) -> Place:
    world_size = _number(environ, "WORLD_SIZE")
    if world_size == 1:
        return Place()
    if "MASTER_ADDR" not in environ or "MASTER_PORT" not in environ:
        raise UsageError(
            f"RANK and WORLD_SIZE={world_size} are set, but not MASTER_ADDR and MASTER_PORT",
            remedy="unset them, or start with: forge train RECIPE --nproc-per-node N",
        )
    # Without LOCAL_RANK there is one process to a machine (or container), each with its own GPU.
    return Place(
        rank=_number(environ, "RANK"),
        local_rank=_number(environ, "LOCAL_RANK", 0),
        world_size=world_size,
        local_world_size=_number(environ, "LOCAL_WORLD_SIZE", 1),
        node=_number(environ, "GROUP_RANK", _number(environ, "RANK")),
        master=(environ["MASTER_ADDR"], _number(environ, "MASTER_PORT")),
    )


def _is_task_of_a_step(environ: Mapping[str, str]) -> bool:
    """Return whether ``srun`` started this process, and not the shell of a batch job."""
    if "SLURM_PROCID" not in environ or "SLURM_NTASKS" not in environ:
        return False
    return "SLURM_STEP_ID" in environ or "SLURM_JOB_ID" not in environ


def _of_slurm(environ: Mapping[str, str]) -> Place:
    world_size = _number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS"))
    if world_size == 1:
        return Place()
    node = _number(environ, "SLURM_NODEID", 0)
    tasks = _per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    tasks = tasks or _per_node(environ.get("SLURM_TASKS_PER_NODE", ""))
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    hosts = hosts or environ.get("SLURM_NODELIST", "localhost")
    begin, count = _PORTS
    port = begin + _number(environ, "SLURM_JOB_ID", 0) % count
    return Place(
        rank=_number(environ, "SLURM_PROCID"),
        local_rank=_number(environ, "SLURM_LOCALID", 0),
        world_size=world_size,
        local_world_size=tasks[node] if node < len(tasks) else 1,
        node=node,
        master=(
            environ.get("MASTER_ADDR") or first_host(hosts),
            _number(environ, "MASTER_PORT", port),
        ),
    )


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list such as ``gpu[03-05,9],login1``."""
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?([^,\[]*)", nodes)
    if match is None:
        raise UsageError(f"not a Slurm node list: '{nodes}'")
    return "".join(part or "" for part in match.groups())


def _per_node(text: str) -> list[int]:
    """Return the tasks of each node out of Slurm's ``2(x3),1``."""
    tasks: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        tasks += [int(count)] * int(times or 1)
    return tasks


def _checked(place: Place) -> Place:
    if not 0 <= place.rank < place.world_size:
        raise UsageError(
            f"rank {place.rank} of {place.world_size} processes: ranks go from 0 to "
            f"{place.world_size - 1}"
        )
    return place


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name)
    if not text and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(f"the environment variable {name} is '{text}', not a number") from None
