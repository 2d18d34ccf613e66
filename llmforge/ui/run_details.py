"""What the page shows of one run besides its curves, as plain values."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from llmforge.errors import ForgeError
from llmforge.insight.compare import read_recipe
from llmforge.insight.inventory import (
    artifacts_of,
    checkpoints_of,
    pending_of,
    tracker_names,
    viewers_of,
)
from llmforge.insight.metrics import metric_rows
from llmforge.insight.summary import summarize
from llmforge.redaction import redact, redact_values
from llmforge.rundir import RunEntry, completion_of
from llmforge.rundir.deployments import read_deployments
from llmforge.rundir.last_row import last_row
from llmforge.rundir.next_command import next_command, why_ended
from llmforge.rundir.uploads import read_kept, read_uploads

Value = TypeVar("Value")

LOG_BYTES = 128 << 10
"""Of a log at most in one answer."""

_MOST_SAMPLES = 2_000


def overview(entry: RunEntry, *, metrics: list[str]) -> dict[str, Any]:
    """Return the facts of a run; what cannot be read is named under ``problems``.

    Args:
        entry: the run.
        metrics: names of its curves.
    """
    run, record, directory = summarize(entry), entry.record, entry.directory
    problems: list[str] = []
    recipe = _or_problem(lambda: _recipe(entry), problems) or {}
    completion = _or_problem(lambda: _completion(entry), problems)
    facts = {
        "id": run.id,
        "name": record.name,
        "state": run.state,
        "why": why_ended(entry),
        "step": run.step,
        "total_steps": run.total_steps,
        "loss": run.best_loss,
        "perplexity": run.perplexity,
        "started": run.started or None,
        "ended": run.ended,
        "duration": run.duration,
        "gone": entry.gone,
        "tags": record.tags,
        "profile": record.profile,
        "attempt": record.attempt,
        "restarts": record.restarts,
        "best": record.metrics.get("best"),
        "directory": str(directory.path),
        "next": next_command(entry),
        "heartbeat": record.heartbeat,
        "last_metrics": last_row(directory.metrics) or record.metrics,
        "last_timing": last_row(directory.timing),
        "resolved": record.resolved,
        "fingerprints": record.fingerprints,
        "goodput": record.goodput,
        "provenance": record.provenance,
        "notices": record.notices,
        "viewers": _or_problem(lambda: viewers_of(directory, recipe), problems) or {},
        "pending": _or_problem(lambda: pending_of(directory, recipe), problems) or {},
        "trackers": tracker_names(recipe),
        "artifacts": {name: str(path) for name, path in artifacts_of(directory, recipe).items()},
        "completion": completion,
        "metrics": metrics,
        "problems": problems,
    }
    return redacted(facts)


def checkpoints(entry: RunEntry) -> dict[str, Any]:
    """Return checkpoints, uploads, what trackers keep, and deployments of a run."""
    directory = entry.directory
    problems: list[str] = []
    found = _or_problem(lambda: checkpoints_of(directory), problems) or []
    deployed = _or_problem(lambda: read_deployments(directory), problems) or []
    body = {
        "checkpoints": [
            {**dataclasses.asdict(item), "path": str(item.path)} for item in reversed(found)
        ],
        "uploads": [dataclasses.asdict(item) for item in read_uploads(directory).values()],
        "kept": [dataclasses.asdict(item) for item in read_kept(directory).values()],
        "deployments": [
            {name: getattr(item, name) for name in ("to", "step", "revision", "link", "time")}
            for item in deployed
        ],
        "problems": problems,
    }
    return redacted(body)


def samples(entry: RunEntry) -> dict[str, Any]:
    """Return the newest texts that the model wrote while it was trained, oldest first."""
    problems: list[str] = []
    rows = _or_problem(lambda: metric_rows(entry.directory.samples), problems) or []
    left_out = max(0, len(rows) - _MOST_SAMPLES)
    return redacted({"samples": rows[left_out:], "left_out": left_out, "problems": problems})


def generation_tests(entry: RunEntry) -> dict[str, Any]:
    """Return the report of the newest generation tests, None where there is none."""
    path = entry.directory.examples
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"report": None, "problems": []}
    except (OSError, ValueError) as error:
        return {"report": None, "problems": [f"{path} cannot be read: {error}"]}
    return redacted({"report": report, "problems": []})


def recipe_text(entry: RunEntry) -> dict[str, Any]:
    """Return the resolved recipe of a run as TOML."""
    try:
        return {"text": redact(entry.directory.recipe.read_text("utf-8")), "problems": []}
    except FileNotFoundError:
        return {"text": "", "problems": []}
    except (OSError, ValueError) as error:
        return {"text": "", "problems": [f"{entry.directory.recipe} cannot be read: {error}"]}


def log_file(entry: RunEntry) -> Path | None:
    """Return the log of a run; None when there is none, or it is not in the run's directory."""
    problems: list[str] = []
    recipe = _or_problem(lambda: _recipe(entry), problems) or {}
    path = artifacts_of(entry.directory, recipe).get("log")
    inside = path is not None and path.resolve().is_relative_to(entry.directory.path.resolve())
    return path if inside else None


def log_tail(entry: RunEntry, *, begin: int | None = None) -> dict[str, Any]:
    """Return whole lines of a run's log.

    Args:
        entry: the run.
        begin: the byte to start from; None for the end of the log. Where more than
            :data:`LOG_BYTES` follow, or the log is shorter by now, its end is returned.

    Returns:
        ``text``, and the bytes ``begin`` and ``end`` that it is between.
    """
    path = log_file(entry)
    if path is None:
        return {"text": "", "begin": 0, "end": 0}
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = max(0, size - LOG_BYTES)
            start = begin if begin is not None and first <= begin <= size else first
            file.seek(start)
            content = file.read(size - start)
    except OSError as error:
        return {"text": f"{path} cannot be read: {error.strerror}", "begin": 0, "end": 0}
    if start == first and first:
        start += content.find(b"\n") + 1
        content = content[content.find(b"\n") + 1 :]
    content = content[: content.rfind(b"\n") + 1]
    text = redact(content.decode("utf-8", "replace"))
    return {"text": text, "begin": start, "end": start + len(content)}


def redacted(body: dict[str, Any]) -> dict[str, Any]:
    """Return plain values without secrets."""
    clean: dict[str, Any] = redact_values(body)
    return clean


def _recipe(entry: RunEntry) -> dict[str, Any]:
    return {} if entry.problem else read_recipe(entry.directory)


def _completion(entry: RunEntry) -> dict[str, Any] | None:
    completion = None if entry.problem else completion_of(entry.directory)
    return None if completion is None else dataclasses.asdict(completion)


def _or_problem(read: Callable[[], Value], problems: list[str]) -> Value | None:
    """Return what ``read`` does; where it fails, note why, and show the rest of the run."""
    try:
        return read()
    except ForgeError as error:
        problems.append(str(error))
        return None
