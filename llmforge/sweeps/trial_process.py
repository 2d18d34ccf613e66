"""``python -m llmforge.sweeps.trial_process``: one trial in a process of its own.

A crash or a lack of memory ends this process and nothing else. Its standard input is a line to the
worker that started it: when that closes, the worker is gone, and the trial saves and stops.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llmforge.component import Component
from llmforge.errors import ForgeError, Interrupted
from llmforge.events import (
    EvaluationEnded,
    MetricsLogged,
    RunStarted,
    TrialEnded,
    TrialStarted,
)
from llmforge.hookspecs import hookimpl
from llmforge.printable import printable
from llmforge.redaction import redact
from llmforge.run.signals import StopNow, StopSignals
from llmforge.streams import protect_streams
from llmforge.sweeps.ledger import Ledger
from llmforge.sweeps.liveness import follow
from llmforge.sweeps.sweep import Sweep, SweepDirectory, load_sweep
from llmforge.sweeps.trials import Trial
from llmforge.sweeps.worker import AttemptProgress


class Watcher(Component, kind="callback"):
    """Reports a trial's metric and stops it when the pruner says so."""

    name = "sweep"

    def __init__(self, metric: str, progress: AttemptProgress, ledger: Ledger, entry: int) -> None:
        super().__init__()
        self.signals: StopSignals | None = None
        self.pruned = False
        self._metric = metric
        self._progress = progress
        self._ledger = ledger
        self._entry = entry
        self._last_step = 0

    @hookimpl
    def forge_run_start(self, event: RunStarted) -> None:
        """Learn where the trial ends: there is nothing to save by stopping it at its end."""
        self._last_step = int(event.facts["total_steps"])

    @hookimpl
    def forge_metrics(self, event: MetricsLogged) -> None:
        """Report a metric of training."""
        if self._metric in event.values:
            self._report(event.step, event.values[self._metric])

    @hookimpl
    def forge_eval_end(self, event: EvaluationEnded) -> None:
        """Report a metric of an evaluation."""
        if self._metric in event.values:
            self._report(event.step, event.values[self._metric])

    def _report(self, step: int, value: float) -> None:
        reason = self._progress.report(step, value)
        if reason is not None and step < self._last_step and self.signals is not None:
            self._ledger.set_pruned(self._entry, reason)
            self.pruned = True
            self.signals.request(f"the pruner ({reason})", state="pruned")


class Link:
    """Ties the run to its sweep; see :class:`llmforge.run.plan.TrialLink`."""

    def __init__(self, sweep: Sweep, trial: Trial, watcher: Watcher) -> None:
        self.sweep_id = sweep.id
        self.watcher: Component = watcher
        self._watcher = watcher
        self._sweep = sweep
        self._trial = trial

    def started(self, run_id: str) -> TrialStarted:
        """Return the event that follows the run's start."""
        parameters = self._sweep.space.with_ties(self._trial.parameters)
        return TrialStarted(sweep_id=self.sweep_id, trial_id=run_id, parameters=parameters)

    def ended(self, run_id: str, state: str) -> TrialEnded:
        """Return the event that precedes the run's end."""
        from llmforge.rundir import RunDirectory
        from llmforge.sweeps.run_trial import objective

        keys = self._sweep.recipe.sweep
        value = None
        if state in ("completed", "early-stopped"):
            directory = RunDirectory(self._sweep.directory.root / run_id)
            try:
                value = objective(directory, metric=keys.metric, direction=keys.direction)
            except ForgeError:
                state = "failed"  # the worker tells the user
        elif self._watcher.pruned:
            state = "pruned"
        return TrialEnded(sweep_id=self.sweep_id, trial_id=run_id, state=state, value=value)


def run(directory: Path, entry: int) -> None:
    """Train the trial that attempt ``entry`` is at.

    Raises:
        Interrupted: it was stopped, or pruned, with its checkpoint saved.
        ForgeError: anything else that a user can mend.
    """
    sweep = load_sweep(SweepDirectory(directory))
    ledger = sweep.ledger(wait=True)
    trial, _ = ledger.attempt(entry)
    progress = AttemptProgress(sweep.goal(), ledger, entry)
    watcher = Watcher(sweep.recipe.sweep.metric, progress, ledger, entry)
    recipe = sweep.trial(sweep.space.with_ties(trial.parameters), repeat=trial.repeat)
    from llmforge.api import train

    with StopSignals() as signals:
        watcher.signals = signals
        follow(sys.stdin.fileno())
        try:
            train(recipe, signals=signals, trial=Link(sweep, trial, watcher))
        except StopNow as stop:
            raise Interrupted(f"stopped by {stop} before anything was started") from None


def main() -> None:
    """Run the trial named on the command line; errors end as those of ``forge train`` do."""
    protect_streams(keep_running=True)
    try:
        run(Path(sys.argv[1]), int(sys.argv[2]))
    except ForgeError as error:
        print(f"forge: {printable(redact(str(error)))}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
