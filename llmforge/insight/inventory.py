"""What a run left on disk. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.checkpoint.format import PINNED, step_directories, verify
from llmforge.checkpoint.manifest import read_manifest
from llmforge.courier.cursor import Cursor, tracker_cursor
from llmforge.courier.deliver_later import pending_events
from llmforge.errors import CheckpointError, PluginError
from llmforge.recipe.schema import RunTable
from llmforge.rundir import RunDirectory


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint as lists show it.

    ``size`` is in bytes, ``problem`` empty when nothing seems wrong.
    """

    step: int
    path: Path
    size: int
    created: str
    is_best: bool
    is_last: bool
    is_pinned: bool
    problem: str


def checkpoints_of(directory: RunDirectory, *, hashes: bool = False) -> list[CheckpointInfo]:
    """Return every checkpoint of a run in order of steps, damaged ones too.

    Args:
        directory: the run.
        hashes: read and hash every file; else manifest and file sizes are looked at.

    Raises:
        CheckpointError: they may not be read by this user.
    """
    known = step_directories(directory.checkpoints)
    found = [_look_at(step, path, hashes=hashes) for step, path in known]
    sound = [info.step for info in found if not info.problem]
    best = [info.step for info in found if info.is_best]
    return [
        CheckpointInfo(
            step=info.step,
            path=info.path,
            size=info.size,
            created=info.created,
            is_best=bool(best) and info.step == best[-1],
            is_last=bool(sound) and info.step == sound[-1],
            is_pinned=info.is_pinned,
            problem=info.problem,
        )
        for info in found
    ]


def artifacts_of(directory: RunDirectory, recipe: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files and folders of a run that people look for, by what they are.

    ``recipe`` is the resolved recipe; empty when it cannot be read.
    """
    log_file = (recipe.get("run") or {}).get("log_file", RunTable.model_fields["log_file"].default)
    places = {
        "recipe": directory.recipe,
        "metrics": directory.metrics,
        "timing": directory.timing,
        "summary": directory.summary,
        "evaluation": directory.evaluation,
        "samples": directory.samples,
        "examples": directory.examples,
        "log": directory.path / log_file,
        "plots": directory.plots,
        "tokenizer": directory.tokenizer,
    }
    return {name: path for name, path in places.items() if path.exists()}


def viewers_of(directory: RunDirectory, recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return, per tracker of the run, where to see what it was given, else its folder."""
    from llmforge.plugins import load

    found = {}
    for name in tracker_names(recipe):
        folder = directory.trackers / name
        place = Cursor(tracker_cursor(directory, name)).link
        try:
            place = place or load("tracker", name).viewer.format(directory=folder)
        except PluginError:  # not installed here; the folder is still worth naming
            place = ""
        if place or folder.exists():
            found[name] = place or str(folder)
    return found


def pending_of(directory: RunDirectory, recipe: Mapping[str, Any]) -> dict[str, int]:
    """Return how many events wait for each tracker of the run that has not been given all."""
    counts = {name: pending_events(directory, name) for name in tracker_names(recipe)}
    return {name: count for name, count in counts.items() if count}


def tracker_names(recipe: Mapping[str, Any]) -> list[str]:
    """Return the trackers a resolved recipe selects."""
    names = (recipe.get("tracker") or {}).get("names") or ()
    return [str(name) for name in names]


def _look_at(step: int, path: Path, *, hashes: bool) -> CheckpointInfo:
    size, created, is_best, wrong = 0, "", False, []
    try:
        wrong = verify(path, hashes=hashes)
        manifest = read_manifest(path)
        size, created, is_best = manifest.size, manifest.created, manifest.is_best
    except CheckpointError as error:
        wrong = wrong or [error.message]
    return CheckpointInfo(
        step=step,
        path=path,
        size=size,
        created=created,
        is_best=is_best,
        is_last=False,
        is_pinned=(path / PINNED).exists(),
        problem="; ".join(wrong),
    )
