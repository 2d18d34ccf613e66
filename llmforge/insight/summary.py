"""A run in a few values, and the words that choose among many."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmforge.errors import UsageError
from llmforge.rundir import RunEntry

STATES = (
    "running",
    "completed",
    "early-stopped",
    "pruned",
    "interrupted",
    "crashed",
    "failed",
    "unreadable",
)
UNFINISHED = ("running", "crashed", "interrupted", "failed", "unreadable")

_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class RunSummary:
    """What ``forge runs list`` shows of a run.

    Losses are in nats per token, times in seconds since the epoch, ``duration`` in seconds over
    all starts. ``entry`` has everything else.
    """

    entry: RunEntry
    id: str
    state: str
    step: int
    total_steps: int
    best_loss: float | None
    perplexity: float | None
    started: float
    ended: float | None
    duration: float | None

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints; times in ISO 8601 with the time zone."""
        record = self.entry.record
        return {
            "id": self.id,
            "name": record.name,
            "state": self.state,
            "step": self.step,
            "total_steps": self.total_steps,
            "best_loss": self.best_loss,
            "perplexity": self.perplexity,
            "started": iso_time(self.started),
            "ended": iso_time(self.ended),
            "duration_seconds": self.duration,
            "attempt": record.attempt,
            "profile": record.profile,
            "tags": record.tags,
            "note": self.entry.note,
            "exit_reason": self.entry.problem or record.exit_reason,
            "metrics": record.metrics,
            "directory": str(self.entry.directory.path),
            "directory_gone": self.entry.gone,
        }


def summarize(entry: RunEntry, *, now: float | None = None) -> RunSummary:
    """Return the summary of one run."""
    record = entry.record
    loss = best_loss(record.metrics)
    return RunSummary(
        entry=entry,
        id=entry.directory.id,
        state=entry.state,
        step=record.step,
        total_steps=record.total_steps,
        best_loss=loss,
        perplexity=None if loss is None else _exp(loss),
        started=record.started,
        ended=None if entry.state == "running" else record.ended,
        duration=_duration(entry, time.time() if now is None else now),
    )


def best_loss(metrics: dict[str, Any]) -> float | None:
    """Return the best validation loss that a record's metrics tell of, else the newest."""
    best = metrics.get("best") or {}
    value = _finite(best.get("value"))
    if value is not None and best.get("metric") == "val/loss":
        return value
    if value is not None and best.get("metric") == "val/perplexity" and value > 0:
        return math.log(value)
    return _finite(metrics.get("val/loss"))


def parse_since(text: str, *, now: float | None = None) -> float:
    """Return the time that ``2d``, ``36h``, ``2026-11-01`` or ``2026-11-01T12:00`` mean.

    Raises:
        UsageError: it is neither an age nor a date.
    """
    amount, unit = text[:-1], text[-1:]
    if unit in _UNIT_SECONDS and amount.isdecimal():
        return (time.time() if now is None else now) - int(amount) * _UNIT_SECONDS[unit]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UsageError(
            f"--since {text}: neither an age nor a date",
            remedy="write 30m, 12h, 2d, 1w or a date like 2026-11-01",
        ) from None


def parse_length(text: str) -> float:
    """Return the seconds that ``90s``, ``30m``, ``2h``, ``1d`` or ``1w`` mean.

    Raises:
        UsageError: it is no length of time.
    """
    amount, unit = text[:-1], text[-1:]
    try:
        return float(amount) * {**_UNIT_SECONDS, "s": 1}[unit]
    except (ValueError, KeyError):
        raise UsageError(
            f"{text}: not a length of time", remedy="write 90s, 30m, 2h, 1d or 1w"
        ) from None


def iso_time(moment: float | None) -> str | None:
    """Return seconds since the epoch in ISO 8601 with the local time zone."""
    if not moment:
        return None
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


def _duration(entry: RunEntry, now: float) -> float | None:
    record = entry.record
    if not record.started:
        return None
    before = float(record.goodput.get("wall_seconds", 0.0))
    if entry.state == "running":
        return before + now - record.started
    if record.ended is not None and (before or record.ended >= record.started):
        return before or record.ended - record.started
    beat = float(record.heartbeat.get("time", record.started))
    return before + max(0.0, beat - record.started)


def _finite(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and math.isfinite(value) else None


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
