"""What is known of one checkpoint, from its own files and those of its run. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmforge.checkpoint import Checkpoint, read_metadata
from llmforge.errors import CheckpointError
from llmforge.insight.inventory import CheckpointInfo, checkpoints_of, look_at
from llmforge.insight.loss_trend import LossStatistics, Trend, loss_statistics, loss_trend
from llmforge.insight.metric_window import rows_up_to
from llmforge.insight.metrics import Row
from llmforge.insight.tensor_statistics import WeightSummary, summarize_weights
from llmforge.rundir import RunDirectory, RunEntry, entry_of
from llmforge.rundir.last_row import last_row
from llmforge.rundir.layout import run_of

_ROWS = 400
"""Rows of metrics that are looked at: the newest are of interest, an evaluation is among them."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training was at a checkpoint.

    Attributes:
        step: of the checkpoint.
        total_steps: of the run; None where only the checkpoint is left.
        epoch: passes over the data.
        tokens: seen so far.
        eta_seconds: until the run ends, from the newest step on; None of one that does not run.
    """

    step: int
    total_steps: int | None
    epoch: float | None
    tokens: int | None
    eta_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """What is known of a checkpoint; what is not is None or empty.

    Attributes:
        run_id: of its run.
        state: of its run.
        info: size, time, marks, and what is wrong with it.
        metrics: its row of metrics and its newest evaluation, by name.
        best: metric, value and step of the best evaluation so far.
        steps_since_best: steps taken since.
        loss: training loss over the last logged steps.
        trend: of the training loss.
        progress: how far it is.
        system: hardware, precision, devices and versions.
        provenance: where it comes from: git, recipe, data, tokenizer, parent.
        files: bytes by name, the manifest excepted.
        weights: what the headers say of them; None where they cannot be read.
        frozen: the weights that belong to it and are not in it.
    """

    run_id: str
    state: str
    info: CheckpointInfo
    metrics: Mapping[str, float]
    best: Mapping[str, Any] | None
    steps_since_best: int | None
    loss: LossStatistics | None
    trend: Trend
    progress: Progress
    system: Mapping[str, Any]
    provenance: Mapping[str, Any]
    files: Mapping[str, int]
    weights: WeightSummary | None
    frozen: Mapping[str, Any] | None = field(default=None)


def checkpoint_facts(checkpoint: Checkpoint) -> CheckpointFacts:
    """Return what is known of ``checkpoint``, however much of it and of its run is left.

    Raises:
        RunError: a row of the run's metrics is damaged.
        CheckpointError: it may not be read by this user.
    """
    entry = entry_with(checkpoint)
    told = _metadata(checkpoint)
    rows = known_rows(checkpoint)
    steps, losses = _losses(rows)
    best = told.get("best")
    row = rows[-1] if rows and rows[-1]["step"] == checkpoint.step else {}
    return CheckpointFacts(
        run_id=entry.directory.id if entry else told.get("run_id", ""),
        state=entry.state if entry else "",
        info=info_of(checkpoint),
        metrics=_values({"train/loss": told.get("train_loss"), **row, **_evaluation(told)}),
        best=best,
        steps_since_best=None if best is None else checkpoint.step - best["step"],
        loss=loss_statistics(steps, losses),
        trend=loss_trend(steps, losses),
        progress=_progress(checkpoint, {**row, **told}, entry),
        system=_system(checkpoint, told, entry),
        provenance=_provenance(checkpoint, told, entry),
        files={name: item.size for name, item in sorted(checkpoint.manifest.files.items())},
        weights=_weights(checkpoint),
        frozen=None if checkpoint.manifest.frozen is None else vars(checkpoint.manifest.frozen),
    )


def entry_with(checkpoint: Checkpoint) -> RunEntry | None:
    """Return the run a checkpoint is in; None where it is on its own, or the run is unreadable."""
    directory = run_of(checkpoint.path)
    entry = None if directory is None else entry_of(directory)
    return None if entry is None or entry.problem else entry


def known_rows(checkpoint: Checkpoint, *, most: int = _ROWS) -> Sequence[Row]:
    """Return the last ``most`` rows of metrics up to a checkpoint, or what it has of them itself.

    Raises:
        RunError: a row of the run's metrics is damaged.
    """
    entry = entry_with(checkpoint)
    rows = rows_up_to(entry.directory.metrics, checkpoint.step, most=most) if entry else []
    return rows or history_rows(_metadata(checkpoint))


def history_rows(metadata: Mapping[str, Any]) -> list[Row]:
    """Return the thinned history in a checkpoint's metadata as rows."""
    history = metadata.get("history") or {}
    names = list(history)
    return [dict(zip(names, row, strict=True)) for row in zip(*history.values(), strict=False)]


def info_of(checkpoint: Checkpoint) -> CheckpointInfo:
    """Return a checkpoint as lists show it, with its marks where it is in a run."""
    path = checkpoint.path.absolute()
    if path.parent.name == "checkpoints":
        for info in checkpoints_of(RunDirectory(path.parent.parent)):
            if info.path.absolute() == path:
                return info
    return look_at(checkpoint.step, checkpoint.path)


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        return read_metadata(checkpoint.path)
    except CheckpointError:  # the problem of the checkpoint says so
        return {}


def _evaluation(told: Mapping[str, Any]) -> dict[str, Any]:
    return dict(told.get("evaluation") or {})


def _losses(rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    found = [
        (int(row["step"]), float(row["train/loss"]))
        for row in rows
        if isinstance(row.get("train/loss"), int | float) and math.isfinite(row["train/loss"])
    ]
    return [step for step, _ in found], [loss for _, loss in found]


def _values(row: Mapping[str, Any]) -> dict[str, float]:
    places = ("step", "epoch", "tokens_seen")
    return {
        name: value
        for name, value in row.items()
        if name not in places and isinstance(value, int | float)
    }


def _progress(checkpoint: Checkpoint, told: Mapping[str, Any], entry: RunEntry | None) -> Progress:
    timing = last_row(entry.directory.timing) if entry and entry.state == "running" else {}
    return Progress(
        step=checkpoint.step,
        total_steps=entry.record.total_steps or None if entry else None,
        epoch=told.get("epoch"),
        tokens=told.get("tokens_seen"),
        eta_seconds=timing.get("eta_seconds"),
    )


def _system(
    checkpoint: Checkpoint, told: Mapping[str, Any], entry: RunEntry | None
) -> dict[str, Any]:
    facts = {name: told.get(name) for name in ("hardware", "precision", "device", "compiled")}
    packages = entry.record.provenance.get("packages", {}) if entry else {}
    facts |= {"processes": checkpoint.manifest.world_size}
    facts |= {"versions": told.get("versions") or packages}
    return {name: value for name, value in facts.items() if value not in (None, {})}


def _provenance(
    checkpoint: Checkpoint, told: Mapping[str, Any], entry: RunEntry | None
) -> dict[str, Any]:
    record = entry.record if entry else None
    git = record.provenance.get("git") or {} if record else {}
    facts = {
        "git": git.get("commit"),
        "dirty": sorted(git.get("changed") or {}) if git else None,
        "recipe_hash": checkpoint.manifest.recipe_hash,
        **(record.fingerprints if record else {}),
        "parent": checkpoint.manifest.parent,
        "model": told.get("model"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _weights(checkpoint: Checkpoint) -> WeightSummary | None:
    try:
        return summarize_weights(checkpoint.path)
    except CheckpointError:  # said by the problem of the checkpoint
        return None
