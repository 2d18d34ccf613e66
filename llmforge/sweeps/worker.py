"""A worker: takes a trial, runs it, notes how it ended, takes the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from llmforge.errors import ForgeError
from llmforge.sweeps.ledger import Ledger
from llmforge.sweeps.liveness import is_gone
from llmforge.sweeps.next_trial import Done, Goal, Start, Wait, next_work, why_prune
from llmforge.sweeps.trials import Attempt, Result, Trial

_BEATS_PER_LEASE = 4
_LOOK_SECONDS = 1.0


class Progress(Protocol):
    """What a trial tells while it runs."""

    def report(self, step: int, value: float) -> str | None:
        """Note the objective at ``step``; return why the trial should stop there, or None."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at a trial.

    Attributes:
        entry: its id in the ledger.
        number: of the point.
        repeat: which of the point's seeds, from 0.
        parameters: values by recipe key, tied ones included.
    """

    entry: int
    number: int
    repeat: int
    parameters: Mapping[str, Any]


class Executor(Protocol):
    """Runs trials."""

    def identify(self, job: Job) -> tuple[str, str]:
        """Return the id and the full identity of the run a job amounts to.

        Raises:
            ForgeError: the parameters make no run; the trial counts as failed.
        """
        ...

    def run(self, job: Job, progress: Progress, *, stop: Callable[[], bool]) -> Result:
        """Run a job, or resume it, until it ends or ``stop`` answers True.

        Raises:
            ForgeError: something that no trial of this sweep can get over.
        """
        ...


class AttemptProgress:
    """Writes what a trial reports into the ledger, and asks the pruner.

    Args:
        goal: of the sweep.
        ledger: of the sweep.
        entry: the attempt.
    """

    def __init__(self, goal: Goal, ledger: Ledger, entry: int) -> None:
        self._goal = goal
        self._ledger = ledger
        self._entry = entry

    def report(self, step: int, value: float) -> str | None:
        """Note the objective at ``step``; return why the trial should stop there, or None."""
        self._ledger.report(self._entry, step, value)
        trials = self._ledger.trials()
        for trial in trials:
            for attempt in trial.attempts:
                if attempt.entry == self._entry:
                    if not attempt.prunable:
                        return None
                    return why_prune(self._goal, trial, trials, step=step)
        return None


class Worker:
    """Works on a sweep until nothing is left to do.

    Args:
        goal: of the sweep.
        ledger: of the sweep.
        executor: runs the trials.
        stop: returns whether to stop; asked between trials and while one runs.
        poll_seconds: how often to look whether other workers' trials have come back.
    """

    def __init__(
        self,
        goal: Goal,
        ledger: Ledger,
        executor: Executor,
        *,
        stop: Callable[[], bool] = lambda: False,
        poll_seconds: float = 0.5,
    ) -> None:
        self._goal = goal
        self._ledger = ledger
        self._executor = executor
        self._stop = stop
        self._poll_seconds = poll_seconds
        self._lives = Lives(goal.keys.lease_seconds)
        self._looked, self._told = 0.0, False

    def run(self) -> Done | None:
        """Work; return why nothing is left, or None when asked to stop before that.

        Raises:
            ForgeError: something that no trial of this sweep can get over.
        """
        self._ledger.settle()
        while not self._asked():
            work = self._next()
            if isinstance(work, Done):
                return work
            if isinstance(work, Wait):
                time.sleep(self._poll_seconds)
                continue
            entry = self._ledger.begin(
                work.number, work.repeat, work.attempt, work.parameters, prunable=work.prunable
            )
            if entry is not None:
                self._work(work, entry)
        return None

    def _next(self) -> Start | Wait | Done:
        trials = self._ledger.trials()
        dead = self._lives.dead_among(trials)
        if dead:  # what they wrote between the reading and their end counts
            trials = self._ledger.trials()
        return next_work(self._goal, trials, is_dead=lambda attempt: attempt.entry in dead)

    def _work(self, work: Start, entry: int) -> None:
        job = Job(
            entry=entry,
            number=work.number,
            repeat=work.repeat,
            parameters=self._goal.space.with_ties(work.parameters),
        )
        began = time.monotonic()
        try:
            run_id, identity = self._executor.identify(job)
        except ForgeError as error:
            self._ledger.finish(entry, Result(outcome="failed", reason=str(error)))
            return
        self._ledger.set_run(entry, run_id=run_id, identity=identity)
        progress = AttemptProgress(self._goal, self._ledger, entry)
        try:
            with self._beating(entry):
                result = self._executor.run(job, progress, stop=self._asked)
        except ForgeError as error:
            seconds = time.monotonic() - began
            self._ledger.finish(entry, Result(outcome="failed", reason=str(error), seconds=seconds))
            raise
        self._ledger.finish(entry, result)

    def _asked(self) -> bool:
        """Return whether to stop; the ledger, which may be far away, is not asked every time."""
        if self._stop():
            return True
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked, self._told = now, bool(self._ledger.stopped)
        return self._told

    @contextmanager
    def _beating(self, entry: int) -> Iterator[None]:
        """Give signs of life from a thread of its own."""
        ended = threading.Event()
        interval = self._goal.keys.lease_seconds / _BEATS_PER_LEASE

        def beat() -> None:
            while not ended.wait(interval):
                self._ledger.beat(entry)

        thread = threading.Thread(target=beat, name="forge-trial-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class Lives:
    """Tells which attempts' processes are gone.

    On this machine the process itself is looked at. One on another machine is gone when it gave
    no sign for a lease, by the clock here: clocks of several machines are never compared.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease = lease_seconds
        self._seen: dict[int, tuple[float, float]] = {}

    def dead_among(self, trials: Sequence[Trial]) -> set[int]:
        """Return the running attempts, by entry, whose processes are gone."""
        running = [trial.last for trial in trials if trial.state == "running"]
        return {attempt.entry for attempt in running if self.is_dead(attempt)}

    def is_dead(self, attempt: Attempt) -> bool:
        """Return whether the process that works on ``attempt`` is gone."""
        gone = is_gone(attempt.worker)
        if gone is not None:
            return gone
        now = time.monotonic()
        beat, since = self._seen.get(attempt.entry, (None, now))
        if beat != attempt.beat:
            since = now
        self._seen[attempt.entry] = (attempt.beat, since)
        return now - since > self._lease
