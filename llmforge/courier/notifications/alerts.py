"""What is told of a run, and noticing that it takes no step any more."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from llmforge.errors import ForgeError, RunError
from llmforge.events import Alert
from llmforge.rundir import RunDirectory, RunEntry, RunRecord, entry_of, read_record
from llmforge.rundir.next_command import next_command, why_ended

NOTIFY = "notify"
"""What notifications are called beside the trackers of a run."""

_LOOKS = 20
_LONGEST_PAUSE = 5.0


def is_trial(run_id: str) -> bool:
    """Return whether a run is a trial of a sweep: nobody wants a message for each."""
    return run_id.startswith("tune_")


def alert(
    directory: RunDirectory, occasion: str, *, state: str, reason: str = "", once: str = ""
) -> Alert:
    """Return the alert about a run as its record is now.

    Args:
        directory: the run.
        occasion: a value of ``notify.on``.
        state: what it is in, as people are told: ``completed``, ``crashed``, ``stalled`` …
        reason: in words; else what the record says.
        once: tells several alerts of one occasion and start apart.
    """
    entry = entry_of(directory)
    record, now = entry.record, time.time()
    told = dataclasses.replace(entry, state=state) if state == "crashed" else entry
    place = f"{record.attempt}.{record.restarts}:{occasion}{once and ':'}{once}"
    facts: dict[str, Any] = {
        "id": f"{record.run_id}/{place}",
        "run": record.run_id,
        "name": record.name,
        "state": state,
        "reason": reason or why_ended(told),
        "step": record.step,
        "total_steps": record.total_steps,
        "best": record.metrics.get("best"),
        "val_loss": record.metrics.get("val/loss"),
        "train_loss": record.metrics.get("train/loss"),
        "seconds": round(_seconds(record, now), 1),
        "host": record.heartbeat.get("host", ""),
        "directory": str(directory.path.absolute()),
        "next_command": _next(told),
    }
    return Alert(id=facts["id"], occasion=occasion, time=now, facts=facts)


def _seconds(record: RunRecord, now: float) -> float:
    """Return how long the run has been trained, over all its starts."""
    before = float(record.goodput.get("wall_seconds", 0.0))
    if record.ended is not None:  # this start is among them
        return before or record.ended - record.started
    return before + now - record.started


def _next(entry: RunEntry) -> str:
    try:
        return next_command(entry, elsewhere=True)
    except ForgeError:  # its completion is damaged, which is told where somebody can mend it
        return ""


class StallWatch(threading.Thread):
    """Tells once when a run in training has taken no step for too long, and again for later ones.

    Args:
        directory: the run.
        after: seconds without a step.
        on_stall: told the step that it stands at, and the seconds that it has.
    """

    def __init__(
        self, directory: RunDirectory, *, after: float, on_stall: Callable[[int, float], None]
    ) -> None:
        super().__init__(name="watch-steps", daemon=True)
        self._directory = directory
        self._after = after
        self._on_stall = on_stall
        self._ended = threading.Event()

    def close(self) -> None:
        """End the watching."""
        self._ended.set()

    def run(self) -> None:
        """Look at the record now and then."""
        step, since, told = -1, time.monotonic(), False
        while not self._ended.wait(min(_LONGEST_PAUSE, self._after / _LOOKS)):
            try:
                record = read_record(self._directory)
            except RunError:
                continue  # not there, or damaged: others report it
            stands = time.monotonic() - since
            if record.step != step or record.state != "running":
                step, since, told = record.step, time.monotonic(), False
            elif stands >= self._after and not told:
                told = True
                self._on_stall(step, stands)
