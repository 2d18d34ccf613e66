"""Whether what a run left behind is whole and agrees with itself. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llmforge.errors import ForgeError, RunError
from llmforge.insight.inventory import checkpoints_of
from llmforge.rundir import RunDirectory, RunRecord, completion_of, current_state, read_record
from llmforge.rundir.annotations import read_annotations
from llmforge.rundir.record import FINISHED


@dataclass(frozen=True)
class Check:
    """What was looked at, and what is wrong with it.

    ``said`` says what was found where nothing is wrong.
    """

    name: str
    said: str
    problems: tuple[str, ...] = ()


def verify_run(directory: RunDirectory) -> list[Check]:
    """Check the files of a run; every checkpoint is read and hashed.

    Raises:
        RunError: its record cannot be read, so there is nothing to hold the rest against.
    """
    record = read_record(directory)
    checks: tuple[tuple[str, Callable[[RunDirectory, RunRecord], Iterator[str]]], ...] = (
        ("record", _record),
        ("recipe", _recipe),
        ("metrics", _metrics),
        ("checkpoints", _checkpoints),
        ("completion", _completion),
        ("annotations", _annotations),
    )
    return [_checked(name, look(directory, record)) for name, look in checks]


def _checked(name: str, found: Iterator[str]) -> Check:
    """Return a check of what a look yields: problems begin with ``!``, the rest is said."""
    texts = list(found)
    problems = tuple(text[1:] for text in texts if text.startswith("!"))
    return Check(name, "; ".join(text for text in texts if not text.startswith("!")), problems)


def _record(directory: RunDirectory, record: RunRecord) -> Iterator[str]:
    yield f"{current_state(directory, record)}, step {record.step:,}"
    if record.run_id != directory.id and not directory.id.startswith(f"{record.run_id}.attempt-"):
        yield f"!run.json is that of {record.run_id}"
    if record.ended is not None and record.ended < record.started and record.state in FINISHED:
        yield "!it ended before it started"
    if record.state in FINISHED and record.total_steps and record.step > record.total_steps:
        yield f"!step {record.step:,} is past the last of {record.total_steps:,}"


def _recipe(directory: RunDirectory, record: RunRecord) -> Iterator[str]:
    from llmforge.recipe import load_recipe
    from llmforge.recipe.run_identity import identity

    if not directory.recipe.exists():
        yield "!recipe.toml is not there"
        return
    try:
        found = identity(load_recipe(directory.recipe)).hash
    except ForgeError as error:
        yield f"!it cannot be loaded here: {error.reason}"
        return
    yield f"identity {found[:12]}"
    if found != record.identity.get("hash"):
        yield "!it is not the recipe that run.json says was trained"


def _metrics(directory: RunDirectory, record: RunRecord) -> Iterator[str]:
    count, last, newest = 0, -1, dict[str, Any]()
    try:
        file = directory.metrics.open("rb")
    except FileNotFoundError:
        yield "no rows" if not record.step else "!metrics.jsonl is not there"
        return
    except OSError as error:
        yield f"!metrics.jsonl cannot be read: {error.strerror}"
        return
    with file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
                step = -1 if row is None else int(row["step"])
            except (ValueError, KeyError, TypeError) as error:
                yield f"!metrics.jsonl:{number} is damaged: {error}"
                return
            if row is None:
                if record.state in FINISHED:
                    yield f"!metrics.jsonl:{number} is cut off"
                break
            if step <= last:
                yield f"!metrics.jsonl:{number} has step {step:,} after step {last:,}"
                return
            count, last = number, step
            newest |= row
    yield f"{count:,} rows to step {max(last, 0):,}"
    if record.state in FINISHED:
        yield from _final_values(record, newest)


def _final_values(record: RunRecord, newest: dict[str, Any]) -> Iterator[str]:
    """Compare the last value of each metric with that of the record."""
    for name, value in record.metrics.items():
        other = newest.get(name)
        if isinstance(value, float) and isinstance(other, int | float) and value != other:
            both_nan = math.isnan(value) and isinstance(other, float) and math.isnan(other)
            if not both_nan:
                yield f"!{name} is {value} in run.json and {other} in metrics.jsonl"


def _checkpoints(directory: RunDirectory, record: RunRecord) -> Iterator[str]:
    found = checkpoints_of(directory, hashes=True)
    yield f"{len(found)} read and hashed" if found else "none here"
    for info in found:
        if info.problem:
            yield f"!step {info.step:,}: {info.problem}"
        # The record of a run that was killed is as old as its last heartbeat.
        if info.step > record.step and record.state != "running":
            yield f"!step {info.step:,} is past step {record.step:,} of run.json"


def _completion(directory: RunDirectory, record: RunRecord) -> Iterator[str]:
    try:
        completion = completion_of(directory)
    except RunError as error:
        yield f"!{error.message}"
        return
    if completion is None:
        if record.state in FINISHED:
            yield f"!run.json says {record.state}, but no completion is recorded"
        else:
            yield "not completed"
        return
    yield f"{completion.state} at step {completion.steps:,}"
    pairs = {
        "state": (completion.state, record.state),
        "steps": (completion.steps, record.step),
        "attempt": (completion.attempt, record.attempt),
        "identity": (completion.identity, record.identity.get("hash")),
        "final loss": (completion.final_loss, record.metrics.get("val/loss")),
    }
    for name, (one, other) in pairs.items():
        if one != other and one is not None and other is not None and one == one:
            yield f"!{name} is {one} there and {other} in run.json"


def _annotations(directory: RunDirectory, record: RunRecord) -> Iterator[str]:
    del record
    try:
        read_annotations(directory)
    except RunError as error:
        yield f"!{error.message}"
        return
    yield "present" if directory.annotations.exists() else "none"
