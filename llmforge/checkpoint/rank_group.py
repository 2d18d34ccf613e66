"""What the ranks that write a checkpoint together say to each other, from their writer threads.

A single process has no crew: ``None`` stands for it everywhere, and nothing is said then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from llmforge.errors import CheckpointError, ForgeError, RankLost

T = TypeVar("T")

LEADER = 0
"""The rank that makes the checkpoint out of what all have written."""


class Crew(Protocol):
    """The ranks of a run as their writer threads reach each other. Items are JSON-serialisable.

    Every rank calls the same methods in the same order. A rank that cannot be reached in a time
    the crew sets is named by :class:`CrewLostError`, on every rank that still can be; every
    later call raises it again, at once.

    Attributes:
        rank: of this process.
        world_size: number of ranks.
        beat: seconds between two signs of life while something takes long.
    """

    rank: int
    world_size: int
    beat: float

    def gather(self, item: Any) -> list[Any] | None:
        """Give the leader ``item``; it gets those of all in order of ranks, the others None."""
        ...

    def tell(self, item: Any) -> Any:
        """Return on every rank the ``item`` of the leader."""
        ...


class CrewLostError(CheckpointError, RankLost):
    """A rank can no longer be reached: no checkpoint can be written together any more."""


def everyone(crew: Crew | None, work: Callable[[], T]) -> list[T]:
    """Do ``work`` on every rank, whose results are JSON-serialisable.

    Returns:
        What each rank's work returned, in order of ranks, on the leader; nothing on the others.

    Raises:
        CheckpointError: it failed on a rank; all raise this, and it names the rank.
        CrewLostError: a rank is gone. What this one was doing may still continue.
    """
    if crew is None:
        return [work()]
    task = _Task(work)
    while True:
        task.join(crew.beat)
        reports = crew.gather(task.report())
        verdict = crew.tell(None if reports is None else _verdict(reports))
        if verdict["failed"]:
            task.join()  # what it works with is free again only then
            raise CheckpointError(verdict["failed"], remedy=verdict["remedy"]) from task.error
        if verdict["done"]:
            return [report["result"] for report in reports or ()]


def led(crew: Crew | None, work: Callable[[], T]) -> T:
    """Do ``work`` on the leader alone and return on every rank what it returned, as JSON has it.

    Raises:
        CheckpointError: as :func:`everyone`.
    """
    if crew is None:
        return work()
    results = everyone(crew, lambda: work() if crew.rank == LEADER else None)
    told: T = crew.tell(results[LEADER] if results else None)
    return told


class _Task(threading.Thread):
    """Work that continues while signs of life are exchanged; it never keeps the process alive."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(name="checkpoint-task", daemon=True)
        self._work = work
        self._result: Any = None
        self._done = False
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # it is sent to every rank
            self.error = error
        self._done = True

    def report(self) -> dict[str, Any]:
        if not self._done:
            return {"state": "busy"}
        if self.error is None:
            return {"state": "done", "result": self._result}
        error = self.error
        if not isinstance(error, ForgeError):
            return {"state": "failed", "message": repr(error), "remedy": ""}
        return {"state": "failed", "message": error.message, "remedy": error.remedy}


def _verdict(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    failures = [
        (f"rank {rank}: {report['message']}", report["remedy"])
        for rank, report in enumerate(reports)
        if report["state"] == "failed"
    ]
    return {
        "done": all(report["state"] == "done" for report in reports),
        "failed": "; ".join(message for message, _ in failures),
        "remedy": next((remedy for _, remedy in failures if remedy), ""),
    }
