"""Trials that take milliseconds: a known loss surface with a curve and a cost.

What a real run has that matters to a sweep is there: an identity, a lock, a checkpoint to continue
from, a completion; all in files, so that processes can be killed at will.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.rundir.atomic import write_json
from llmforge.rundir.lock import RunLock

if TYPE_CHECKING:
    from llmforge.sweeps.trials import Result
    from llmforge.sweeps.worker import Job, Progress

BEST_LOSS = 2.0
"""The loss that the best parameters reach."""
_START = 3.0
_PACE = 4.0
_NOISE = 0.01

_OPTIMA: Mapping[str, tuple[float, float]] = {
    "optimizer.adamw.lr": (2e-3, 0.08),
    "train.batch_size": (16, 0.03),
    "model.transformer.width": (256, 0.05),
    "model.transformer.context": (64, 0.02),
}
"""Best value, and the loss that twice or half of it adds, by recipe key."""


def level(parameters: Mapping[str, Any], *, repeat: int = 0) -> float:
    """Return the loss that training with ``parameters`` comes to in the end.

    A parabola in the logarithm of each known key, and a little noise that differs with the seed.
    Other keys cost nothing.
    """
    loss = BEST_LOSS
    for key, (best, cost) in _OPTIMA.items():
        if key in parameters:
            loss += cost * math.log2(parameters[key] / best) ** 2
    draw = int(_digest([dict(parameters), repeat])[:8], 16) / 16**8
    return loss + _NOISE * draw * (repeat > 0)


def loss_at(parameters: Mapping[str, Any], share: float, *, repeat: int = 0) -> float:
    """Return the loss after ``share`` of the steps, from 0 to 1: it falls exponentially."""
    return level(parameters, repeat=repeat) + _START * math.exp(-_PACE * share)


class SimulatedTrials:
    """Runs trials on the surface: an executor for :class:`llmforge.sweeps.worker.Worker`.

    Args:
        directory: keeps what the simulated runs leave behind.
        steps: steps of a trial.
        every: steps between two evaluations.
        seconds: what one trial costs.
        failing: returns why a trial fails with these parameters, or None.
    """

    def __init__(
        self,
        directory: Path,
        *,
        steps: int = 100,
        every: int = 20,
        seconds: float = 0.0,
        failing: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._steps = steps
        self._every = every
        self._seconds = seconds
        self._failing = failing
        directory.mkdir(parents=True, exist_ok=True)

    def identify(self, job: Job) -> tuple[str, str]:
        """Return the id and the identity of a simulated run."""
        identity = _digest([dict(job.parameters), job.repeat])
        return f"tune_{identity[:12]}", identity

    def run(self, job: Job, progress: Progress, *, stop: Callable[[], bool]) -> Result:
        """Take the steps that are left, from the state an earlier attempt saved."""
        from llmforge.sweeps.trials import Result

        run_id, _ = self.identify(job)
        began = time.monotonic()

        def ended(outcome: Any, **how: Any) -> Result:
            return Result(outcome=outcome, seconds=time.monotonic() - began, **how)

        with RunLock(self._directory, run_id):
            path = self._directory / f"{run_id}.json"
            state = json.loads(path.read_bytes()) if path.exists() else {"step": 0, "trained": 0}
            final = loss_at(job.parameters, 1.0, repeat=job.repeat)
            if state.get("completed"):
                return ended("completed", value=final, reused=True)
            if reason := self._failing(job.parameters):
                return ended("failed", reason=reason)
            while True:
                # as in a real run, the newest evaluation is sent again after a resume
                reason = self._report(job, progress, state["step"])
                if state["step"] >= self._steps:
                    write_json(path, {**state, "completed": True}, durable=False)
                    return ended("completed", value=final)
                if reason is not None:
                    return ended("pruned", reason=reason)
                if stop():
                    return ended("interrupted", reason="asked to stop")
                time.sleep(self._seconds * self._every / self._steps)
                state = {name: value + self._every for name, value in state.items()}
                write_json(path, state, durable=False)

    def _report(self, job: Job, progress: Progress, step: int) -> str | None:
        if step == 0:
            return None
        loss = loss_at(job.parameters, step / self._steps, repeat=job.repeat)
        return progress.report(step, loss)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
