"""Real trials: each an ordinary run, trained by a child process, and what such a run is worth."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from llmforge.errors import EXIT_INTERRUPTED, EXIT_LOCKED, EXIT_OK, RunError
from llmforge.insight.metrics import columns, metric_rows
from llmforge.options import closest
from llmforge.recipe import identity
from llmforge.rundir import Completion, RunDirectory, is_locked, read_record
from llmforge.rundir.completion import load_completion
from llmforge.rundir.layout import completion_path
from llmforge.sweeps.ledger import Ledger
from llmforge.sweeps.sweep import Sweep
from llmforge.sweeps.trials import Result
from llmforge.sweeps.worker import Job, Progress

_POLL_SECONDS = 0.1
_LOCKED_SECONDS = 1.0
_TAIL_BYTES = 4096
_MOST_KILLS = 5
"""A trial killed as often as that, one attempt after the other, has failed."""
_KILLS = {getattr(signal, name, None) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")}
"""Signals that come from outside, also from a system without memory; others are a crash."""

LOSS = "val/loss"


class ChildTrials:
    """Runs trials as child processes.

    Args:
        sweep: the sweep.
        ledger: the worker's own ledger.
        environment: variables each child gets beside those of this process.
    """

    def __init__(
        self, sweep: Sweep, ledger: Ledger, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self._sweep = sweep
        self._ledger = ledger
        self._environment = {**os.environ, **(environment or {})}

    def identify(self, job: Job) -> tuple[str, str]:
        """Return the id and the full identity of the run; raises RecipeError."""
        recipe = self._sweep.trial(job.parameters, repeat=job.repeat)
        assert recipe.run.id is not None
        return recipe.run.id, identity(recipe).hash

    def run(self, job: Job, progress: Progress, *, stop: Callable[[], bool]) -> Result:
        """Train the run, resume it, or find that an equal one is complete.

        Raises:
            RunError: the sweep's metric never appears.
        """
        del progress  # the child reports by itself
        run_id, own = self.identify(job)
        began = time.monotonic()
        done = equal_run(self._sweep.directory.root, own)
        if done is not None:
            return self._completed(done.run_id, began, reused=True)
        while True:
            if not self._wait_for_lock(run_id, stop):
                return self._result("interrupted", began, "asked to stop")
            code = self._train(job, run_id, stop)
            if code != EXIT_LOCKED:
                return self._ended(code, job, run_id, began)

    def _wait_for_lock(self, run_id: str, stop: Callable[[], bool]) -> bool:
        """Wait until nobody trains the run: the child of a worker that died may still be saving."""
        while is_locked(self._sweep.directory.root, run_id):
            if stop():
                return False
            time.sleep(_LOCKED_SECONDS)
        return not stop()

    def _train(self, job: Job, run_id: str, stop: Callable[[], bool]) -> int:
        command = [
            sys.executable,
            "-m",
            "llmforge.sweeps.trial_process",
            str(self._sweep.directory.path),
            str(job.entry),
        ]
        with self._log(run_id).open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,  # a Ctrl-C is the worker's to pass on
            )
            asked = False
            try:
                while child.poll() is None:
                    if not asked and stop():
                        child.send_signal(signal.SIGTERM)
                        asked = True
                    time.sleep(_POLL_SECONDS)
            finally:
                assert child.stdin is not None
                child.stdin.close()
        if asked and child.returncode == -signal.SIGTERM:
            return EXIT_INTERRUPTED  # it was still starting and had nothing to save
        return child.returncode

    def _ended(self, code: int, job: Job, run_id: str, began: float) -> Result:
        if code == EXIT_OK:
            return self._completed(run_id, began, reused=False)
        if code == EXIT_INTERRUPTED:
            pruned = self._ledger.attempt(job.entry)[1].pruned
            if pruned:
                return self._result("pruned", began, pruned)
            return self._result("interrupted", began, "asked to stop")
        why = self._why(code, run_id)
        if -code in _KILLS and self._ledger.attempt(job.entry)[0].kills < _MOST_KILLS - 1:
            return replace(self._result("interrupted", began, why), killed=True)
        return self._result("failed", began, why)

    def _completed(self, run_id: str, began: float, *, reused: bool) -> Result:
        keys = self._sweep.recipe.sweep
        directory = RunDirectory(self._sweep.directory.root / run_id)
        value = objective(directory, metric=keys.metric, direction=keys.direction)
        seconds = time.monotonic() - began
        return Result(outcome="completed", value=value, seconds=seconds, reused=reused)

    def _result(self, outcome: str, began: float, reason: str) -> Result:
        seconds = time.monotonic() - began
        return Result(outcome=outcome, reason=reason, seconds=seconds)  # type: ignore[arg-type]

    def _why(self, code: int, run_id: str) -> str:
        """Return why a child failed: its signal, its last words, or what its run recorded."""
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        if words := _last_words(self._log(run_id)):
            return words
        try:
            record = read_record(RunDirectory(self._sweep.directory.root / run_id))
        except RunError:
            return f"exit code {code}"
        return record.exit_reason or f"exit code {code}"

    def _log(self, run_id: str) -> Path:
        return self._sweep.directory.logs / f"{run_id}.log"


def objective(directory: RunDirectory, *, metric: str, direction: str) -> float:
    """Return the best value of ``metric`` in the metrics of a run.

    Raises:
        RunError: the metric never appears.
    """
    rows = metric_rows(directory.metrics)
    values = [float(row[metric]) for row in rows if metric in row]
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        return min(finite) if direction == "minimize" else max(finite)
    done = load_completion(completion_path(directory.root, directory.id))
    if done is not None and not rows and metric == LOSS and done.best_loss is not None:
        return done.best_loss  # the directory is gone
    known = [name for name in columns(rows) if name not in ("step", "epoch")]
    near = closest(metric, known)
    raise RunError(
        f"sweep.metric '{metric}' never appears in {directory.id}",
        remedy=f"did you mean '{near}'?" if near else f"it has: {', '.join(known)}",
    )


def equal_run(root: Path, identity: str) -> Completion | None:
    """Return the completion of a run of this identity, whatever its id and origin."""
    for path in sorted(completion_path(root, "").parent.glob("*.json")):
        done = load_completion(path)
        if done is not None and done.identity == identity:
            return done
    return None


def _last_words(path: Path) -> str:
    """Return the error that a child printed at its end: ``forge``'s own, or a traceback's last."""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
        text = file.read().decode(errors="replace").strip()
    _, ours, words = text.rpartition("forge: ")
    lines = words.splitlines() if ours else text.splitlines()[-1:]
    return "; ".join(line.strip() for line in lines)
