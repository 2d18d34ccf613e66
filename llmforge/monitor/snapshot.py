"""How one run stands at one moment: plain values, for a terminal, JSON or a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmforge.insight.summary import iso_time

Points = tuple[Sequence[float], Sequence[float]]
"""Steps and values of a curve."""


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best evaluation: the metric that decides, its value and step."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True, kw_only=True)
class CheckpointAge:
    """A checkpoint: its step, and when it was written in seconds since the epoch."""

    step: int
    created: float


@dataclass(frozen=True, kw_only=True)
class Upload:
    """The upload of one checkpoint: how far it is, in bytes; ``error`` of the last failed try."""

    step: int
    state: str
    sent: int
    size: int
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Happening:
    """What the watcher saw change: when, in seconds since the epoch, and what, in words."""

    time: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One run at one moment. What is not known is None or empty.

    Attributes:
        id: the run.
        name: its display name.
        directory: where it is, a path or a URL.
        state: as ``forge runs list`` has it, or ``waiting`` for a run that is not there yet.
        why: why it is not running, in words.
        next_command: what to type next; empty while it runs.
        attempt: which fresh start of the id it is, from 1.
        starts: processes that have worked on this attempt.
        step: the newest step known.
        total_steps: where it ends; 0 when that is not known yet.
        epoch: passes over the training data.
        taken: when this snapshot was taken, in seconds since the epoch, as all times here.
        started: when its newest process started.
        ended: when that one ended.
        updated: the newest sign of life.
        eta_seconds: what is left, while it runs.
        tokens_per_second: over the last logged steps of its newest process.
        data_share: share of the time spent waiting for data.
        lr: learning rate.
        train_loss: in nats, mean of the last logged steps.
        val_loss: in nats, of the newest evaluation.
        best: the best evaluation.
        process_memory_gb: resident memory of the training process, in 10^9 bytes.
        gpu_memory_gb: memory in use on its GPU.
        gpu_percent: how busy its GPU is.
        last_checkpoint: the newest one.
        best_checkpoint: the best of those that are kept.
        uploads: of each checkpoint, the oldest first.
        pending: events that wait, by tracker.
        curves: losses by name, thinned.
        log: the last lines of its log.
        happenings: what changed while it was watched.
    """

    id: str
    state: str
    taken: float
    name: str = ""
    directory: str = ""
    why: str = ""
    next_command: str = ""
    attempt: int = 1
    starts: int = 0
    step: int = 0
    total_steps: int = 0
    epoch: float | None = None
    started: float | None = None
    ended: float | None = None
    updated: float | None = None
    eta_seconds: float | None = None
    tokens_per_second: float | None = None
    data_share: float | None = None
    lr: float | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    best: Best | None = None
    process_memory_gb: float | None = None
    gpu_memory_gb: float | None = None
    gpu_percent: float | None = None
    last_checkpoint: CheckpointAge | None = None
    best_checkpoint: CheckpointAge | None = None
    uploads: tuple[Upload, ...] = ()
    pending: Mapping[str, int] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)
    log: tuple[str, ...] = ()
    happenings: tuple[Happening, ...] = ()

    @property
    def share(self) -> float | None:
        """Share of the steps that is taken, None while their number is not known."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else None

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints; times in ISO 8601 with the time zone."""
        body = dataclasses.asdict(self)
        for name in ("taken", "started", "ended", "updated"):
            body[name] = iso_time(body[name])
        for name in ("last_checkpoint", "best_checkpoint"):
            if body[name] is not None:
                body[name]["created"] = iso_time(body[name]["created"])
        for item in body["happenings"]:
            item["time"] = iso_time(item["time"])
        body["curves"] = {
            name: {"step": list(steps), "value": list(values)}
            for name, (steps, values) in self.curves.items()
        }
        return body
