"""Immutable events, and how they travel as JSON lines through a run's journal.

The training process only appends events; the courier reads them back and calls the lifecycle
hook each class names. Every field is JSON-serialisable; paths are strings relative to the run
directory unless they say otherwise.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events; ``hook`` is the lifecycle hook that receives it."""

    hook: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A process started or resumed the run.

    ``config`` is the resolved recipe as nested tables; ``facts`` hold the model's size and
    architecture, the planned length, data, hardware and provenance; ``resumed_from`` is the step
    it resumes from, or None.
    """

    hook: ClassVar[str] = "forge_run_start"
    run_id: str
    attempt: int
    restart: int
    directory: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    resumed_from: int | None = None


@dataclass(frozen=True, kw_only=True)
class MetricsLogged(Event):
    """Scalars by name at ``step``; ``time`` in seconds since the epoch."""

    hook: ClassVar[str] = "forge_metrics"
    step: int
    values: Mapping[str, float]
    time: float


@dataclass(frozen=True, kw_only=True)
class EvaluationEnded(Event):
    """Result of one evaluation over all of ``split``."""

    hook: ClassVar[str] = "forge_eval_end"
    step: int
    split: str
    values: Mapping[str, float]
    time: float
    is_best: bool = False


@dataclass(frozen=True, kw_only=True)
class HistogramsLogged(Event):
    """Histograms by name: ``{"edges": [...], "counts": [...]}``."""

    hook: ClassVar[str] = "forge_histograms"
    step: int
    values: Mapping[str, Mapping[str, list[float]]]


@dataclass(frozen=True, kw_only=True)
class SamplesGenerated(Event):
    """Generated texts, a row each.

    A row has ``step``, ``prompt``, ``text``, ``tokens`` (their number), ``finish``,
    ``seconds_per_token``, ``distinct_1`` and ``distinct_2``. That of a test has ``seconds`` and
    ``tokens_per_second`` instead, and ``repetition``, ``test`` (its name), ``passed`` (None when
    it checks nothing) and ``failed`` (names of checks).
    """

    hook: ClassVar[str] = "forge_samples"
    step: int
    samples: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", tuple(self.samples))  # JSON brings a list back


@dataclass(frozen=True, kw_only=True)
class ArtifactWritten(Event):
    """A finished file; ``type`` is one of plot, recipe, samples, report."""

    hook: ClassVar[str] = "forge_artifact"
    name: str
    path: str
    type: str
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """A checkpoint is valid on the local disk."""

    hook: ClassVar[str] = "forge_checkpoint_saved"
    step: int
    path: str
    size: int
    is_best: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CheckpointUploaded(Event):
    """A checkpoint is committed in storage under ``url``."""

    hook: ClassVar[str] = "forge_checkpoint_uploaded"
    step: int
    url: str


@dataclass(frozen=True, kw_only=True)
class TrialStarted(Event):
    """A trial of a sweep starts with ``parameters``."""

    hook: ClassVar[str] = "forge_trial_start"
    sweep_id: str
    trial_id: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrialEnded(Event):
    """A trial of a sweep ended in ``state``."""

    hook: ClassVar[str] = "forge_trial_end"
    sweep_id: str
    trial_id: str
    state: str
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunFailed(Event):
    """The error that stopped the run."""

    hook: ClassVar[str] = "forge_run_error"
    step: int
    message: str


@dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """How this start of the run ended; ``state`` as in ``run.json``."""

    hook: ClassVar[str] = "forge_run_end"
    state: str
    reason: str
    step: int
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Alert(Event):
    """Something people want to be told of at once; for notifications alone, no component gets it.

    ``id`` tells it from every other one of the run, ``occasion`` is a value of ``notify.on``,
    ``facts`` are what the message says, as they were then.
    """

    hook: ClassVar[str] = "alert"
    id: str
    occasion: str
    time: float
    facts: Mapping[str, Any] = field(default_factory=dict)


EVENT_TYPES: Mapping[str, type[Event]] = {
    cls.hook: cls
    for cls in (
        RunStarted,
        MetricsLogged,
        EvaluationEnded,
        HistogramsLogged,
        SamplesGenerated,
        ArtifactWritten,
        CheckpointSaved,
        CheckpointUploaded,
        TrialStarted,
        TrialEnded,
        RunFailed,
        RunEnded,
    )
}


def encode(event: Event) -> str:
    """Return ``event`` as one JSON line, without the newline."""
    body = {item.name: getattr(event, item.name) for item in dataclasses.fields(event)}
    return json.dumps({"hook": event.hook, **body}, separators=(",", ":"), default=_plain)


def decode(line: str) -> Event | None:
    """Return the event in ``line``, or None for one this version does not know.

    Fields this version does not know are left out; a field a later version adds must have a
    default, so that journals of earlier versions stay readable.

    Raises:
        ValueError: the line is torn or is not an event at all.
    """
    body = json.loads(line)
    if not isinstance(body, dict) or not isinstance(body.get("hook"), str):
        raise ValueError(f"not an event: {line[:80]}")
    cls = Alert if body["hook"] == Alert.hook else EVENT_TYPES.get(body["hook"])
    if cls is None:
        return None
    known = {item.name for item in dataclasses.fields(cls)}
    try:
        return cls(**{key: value for key, value in body.items() if key in known})
    except TypeError as error:
        raise ValueError(f"incomplete event {body['hook']}: {error}") from error


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written to the journal")
