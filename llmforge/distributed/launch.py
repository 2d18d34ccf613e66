"""``forge train --nproc-per-node``: torchrun's elastic launcher in this process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from llmforge.distributed.launched import CODE, ENDINGS, LAUNCHER, LOST
from llmforge.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, Interrupted, UsageError
from llmforge.stop_signals import stop_signals

_ELASTIC_SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"
_THREADS = "OMP_NUM_THREADS"
_MONITOR_SECONDS = 0.1
_MEETING_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Which processes to start.

    Attributes:
        nproc_per_node: how many on this machine.
        nnodes: number of machines, on each of which the same command is run.
        node_rank: index of this machine; the leader runs on machine 0.
        rdzv_endpoint: ``host:port`` of machine 0, where all meet; for several machines.
        max_restarts: how often all processes are started again after one has failed.
    """

    nproc_per_node: int
    nnodes: int = 1
    node_rank: int = 0
    rdzv_endpoint: str | None = None
    max_restarts: int = 0

    def check(self) -> None:
        """Refuse what cannot be started.

        Raises:
            UsageError: an option is missing or out of range.
        """
        if self.nnodes > 1 and not self.rdzv_endpoint:
            raise UsageError(
                f"--nnodes {self.nnodes} needs --rdzv-endpoint",
                remedy="give HOST:PORT of the machine with --node-rank 0, the same on all",
            )
        if self.rdzv_endpoint and not self.rdzv_endpoint.rpartition(":")[2].isdecimal():
            raise UsageError(
                f"--rdzv-endpoint '{self.rdzv_endpoint}' has no port",
                remedy="write it as HOST:PORT, for example node0:29500",
            )
        if not 0 <= self.node_rank < self.nnodes:
            raise UsageError(
                f"--node-rank {self.node_rank} of {self.nnodes} machines: they count from 0"
            )


def launch(arguments: Sequence[str], options: Launch, *, say: Callable[[str], None]) -> int:
    """Run ``forge`` with ``arguments`` as several processes and return their exit code.

    SIGTERM and Ctrl-C reach every process, which has the time it needs to save. When one fails,
    the others are stopped; it has told why.

    Args:
        arguments: of the command line, the same in every process.
        options: which processes.
        say: told what no process could tell any more.

    Raises:
        UsageError: the options do not fit together.
        Interrupted: a signal arrived before the processes were started.
    """
    options.check()
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[_ELASTIC_SIGNALS] = ""  # signals are passed on here, and end nothing by force
    os.environ.setdefault(_THREADS, str(max(1, (os.cpu_count() or 1) // options.nproc_per_node)))
    with tempfile.TemporaryDirectory(prefix="forge-launch-") as folder:
        agent = _agent(arguments, options, folder=folder)
        with _told_to_children(folder), _Forwarding(agent) as forwarding:
            result = agent.run()
        if not result.is_failed():
            left = Path(folder).glob(f"{CODE}*")
            return max((int(path.read_text(encoding="ascii")) for path in left), default=EXIT_OK)
        failed = {rank: failure.exitcode for rank, failure in result.failures.items()}
        return _failure_code(failed, forwarding, Path(folder) / LOST, say=say)


@contextlib.contextmanager
def _told_to_children(folder: str) -> Iterator[None]:
    """Let processes started here know where to leave their exit codes, and whose they are."""
    told = {ENDINGS: folder, LAUNCHER: str(os.getpid())}
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]


def _agent(arguments: Sequence[str], options: Launch, *, folder: str) -> Any:
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    several = options.nnodes > 1
    configs: dict[str, Any] = {"timeout": _MEETING_SECONDS}
    meeting = RendezvousParameters(
        backend="static" if several else "c10d",
        endpoint=options.rdzv_endpoint or "localhost:0",
        run_id="llmforge" if several else uuid.uuid4().hex,
        min_nodes=options.nnodes,
        max_nodes=options.nnodes,
        local_addr=None if several else "localhost",
        **({**configs, "rank": options.node_rank} if several else configs),
    )
    host, _, port = (options.rdzv_endpoint or "").rpartition(":")
    spec = WorkerSpec(
        role="llmforge",
        local_world_size=options.nproc_per_node,
        entrypoint=sys.executable,
        args=("-m", "llmforge", *arguments),
        rdzv_handler=get_rendezvous_handler(meeting),
        max_restarts=options.max_restarts,
        monitor_interval=_MONITOR_SECONDS,
        master_addr=host if several else None,
        master_port=int(port) if several else None,
        local_addr=None if several else "localhost",
    )
    return LocalElasticAgent(spec, DefaultLogsSpecs(log_dir=folder))


class _Forwarding:
    """Passes SIGTERM, SIGHUP and Ctrl-C on to the processes of an agent while it is entered."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._previous: dict[int, Any] = {}
        self.passed: set[int] = set()

    def __enter__(self) -> _Forwarding:
        for number in stop_signals():
            self._previous[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.passed.add(number)
        workers = [worker.id for worker in self._agent.get_worker_group().workers]
        started = [int(pid) for pid in workers if isinstance(pid, int)]
        if not started:
            name = signal.Signals(number).name
            raise Interrupted(f"stopped by {name} before anything was started")
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _failure_code(
    failed: Mapping[int, int], forwarding: _Forwarding, lost: Path, *, say: Callable[[str], None]
) -> int:
    """Return the exit code of processes some of which failed, saying what they could not say."""
    stopped = {EXIT_INTERRUPTED, *(-number for number in forwarding.passed)}
    if forwarding.passed and set(failed.values()) <= stopped:
        return EXIT_INTERRUPTED  # some had not even started to handle signals
    killed = list(_killed(failed))
    for text in killed:
        say(text)
    if not killed and lost.exists():
        say(lost.read_text(encoding="utf-8"))
    codes = [code for code in failed.values() if code > 0]
    return EXIT_FAILURE if killed or not codes else min(codes)


def _killed(failed: Mapping[int, int]) -> Iterator[str]:
    for rank, code in sorted(failed.items()):
        if code < 0:
            yield (
                f"rank {rank} was killed by {signal.Signals(-code).name}; the last checkpoint is "
                "untouched, and the same command resumes from it"
            )
