"""Behind ``forge sweep``: keeps workers alive, shows how trials stand, stops them in order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmforge.errors import EXIT_INTERRUPTED, EXIT_OK, Interrupted, RunError, UsageError
from llmforge.run.signals import StopSignals
from llmforge.run_root import root_option
from llmforge.sweeps.ledger import Ledger
from llmforge.sweeps.next_trial import Done, next_work
from llmforge.sweeps.sweep import Sweep
from llmforge.sweeps.trials import Trial

_POLL_SECONDS = 0.5
_MOST_DEATHS = 20
"""Workers that may be killed while not one trial ends between them."""

Show = Callable[[Sequence[Trial]], None]
"""Told how the trials stand, again and again."""


@dataclass
class _Slot:
    """A place for one worker: what it computes with, and its process."""

    index: int
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None


class Controller:
    """Keeps a sweep's workers on this machine going until nothing is left to do.

    Args:
        sweep: the sweep.
        workers: how many trials run here at once.
        signals: entered and deferred: a signal is asked for, and ends no system call.
        show: told how the trials stand.
    """

    def __init__(
        self,
        sweep: Sweep,
        *,
        workers: int,
        signals: StopSignals,
        show: Show = lambda _: None,
    ) -> None:
        self._sweep = sweep
        self._signals = signals
        self._show = show
        self._ledger: Ledger = sweep.ledger()
        given = shares(
            workers,
            gpus=visible_gpus(os.environ),
            per_trial=sweep.recipe.sweep.gpus_per_trial,
            environment=os.environ,
        )
        logs = sweep.directory.logs
        self._slots = [
            _Slot(index, environment, logs / f"worker-{index}-{os.getpid()}.log")
            for index, environment in enumerate(given)
        ]
        self._deaths = 0
        self._ended = 0

    def run(self) -> Done:
        """Work until everything is done; return why it is.

        Raises:
            Interrupted: it was asked to stop; every trial is saved.
            RunError: a worker met something that no trial can get over, or too many failed.
        """
        self._ledger.stop("")
        trials = self._ledger.trials()
        goal = self._sweep.goal()
        done = next_work(goal, trials, is_dead=lambda _: True)
        if isinstance(done, Done):
            return self._judged(done)
        with self._workers():
            while any(slot.process is not None for slot in self._slots):
                if self._signals.requested is not None:
                    break
                self._look()
                time.sleep(_POLL_SECONDS)
        trials = self._ledger.trials()
        self._show(trials)
        if self._signals.requested is not None:
            raise Interrupted(
                f"stopped by {self._signals.requested}, trials saved",
                remedy="the same command resumes from here",
            )
        if stopped := self._ledger.stopped:
            name = f"{self._sweep.id}{root_option(self._sweep.directory.root)}"
            raise Interrupted(f"{stopped}, trials saved", remedy=f"forge sweep resume {name}")
        done = next_work(goal, trials, is_dead=lambda _: False)
        return self._judged(done if isinstance(done, Done) else Done("other workers continue"))

    def _judged(self, done: Done) -> Done:
        if done.failed:
            raise RunError(
                f"sweep {self._sweep.id} was given up: {done.reason}",
                remedy=f"'forge sweep show {self._sweep.id}' has the reasons; fix them, then: "
                f"forge sweep retry {self._sweep.id} --failed",
            )
        return done

    @contextlib.contextmanager
    def _workers(self) -> Iterator[None]:
        """Start the workers, and leave none behind."""
        try:
            for slot in self._slots:
                self._start(slot)
            yield
        finally:
            running = [slot.process for slot in self._slots if slot.process is not None]
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait()
            for slot in self._slots:
                slot.log.unlink(missing_ok=True)

    def _start(self, slot: _Slot) -> None:
        command = [
            sys.executable,
            "-m",
            "llmforge.sweeps.worker_process",
            str(self._sweep.directory.path),
        ]
        with slot.log.open("wb") as output:
            slot.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **slot.environment},
                start_new_session=True,  # a Ctrl-C comes here first
            )

    def _look(self) -> None:
        """Show how the trials stand, and see to workers that have ended."""
        trials = self._ledger.trials()
        self._show(trials)
        ended = sum(trial.state not in ("running", "waiting") for trial in trials)
        if ended > self._ended:
            self._ended, self._deaths = ended, 0
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is not None:
                self._see_to(slot, slot.process.returncode)

    def _see_to(self, slot: _Slot, code: int) -> None:
        slot.process = None
        said = slot.log.read_text(encoding="utf-8", errors="replace").strip()
        if code in (EXIT_OK, EXIT_INTERRUPTED):
            return  # what it found is in the ledger
        if code >= 0:
            raise self._failure(said, code)
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            name = signal.Signals(-code).name
            raise RunError(
                f"{self._deaths} workers were killed by {name} and no trial ended",
                remedy="is the machine out of memory? Try fewer --workers",
            )
        self._start(slot)

    def _failure(self, said: str, code: int) -> RunError:
        """Return what a worker could not get over: its error, or that it crashed."""
        _, ours, words = said.rpartition("forge: ")
        if ours:
            message, _, remedy = words.partition("\n  ")
            return RunError(message, remedy=remedy)
        crash = self._sweep.directory.logs / "crash.log"
        crash.write_text(said + "\n", encoding="utf-8")
        last = said.splitlines()[-1] if said else f"it ended with code {code}"
        return RunError(
            f"a worker of sweep {self._sweep.id} crashed: {last}",
            remedy=f"{crash} has the traceback; the same command resumes it",
        )


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
