"""What a run left on disk. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.checkpoint.format import (
    PINNED,
    open_checkpoint,
    read_metadata,
    step_directories,
    step_name,
    verify,
)
from llmforge.checkpoint.manifest import read_manifest
from llmforge.courier.cursor import Cursor, tracker_cursor
from llmforge.courier.deliver_later import pending_events
from llmforge.courier.upload_queue import fingerprint
from llmforge.errors import CheckpointError, PluginError
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord, read_uploads

if TYPE_CHECKING:
    from llmforge.remote import Commit


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint as lists show it.

    ``size`` is in bytes, ``problem`` empty when nothing seems wrong. Losses are in nats per token,
    ``val_loss`` that of the newest evaluation at the time; what a checkpoint does not say is None.
    ``upload`` is how its upload stands, empty of one that nobody took up.
    """

    step: int
    path: Path
    size: int
    created: str
    is_best: bool
    is_last: bool
    is_pinned: bool
    problem: str
    epoch: float | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    upload: str = ""


def checkpoints_of(directory: RunDirectory, *, hashes: bool = False) -> list[CheckpointInfo]:
    """Return every checkpoint of a run in order of steps, damaged ones too.

    Args:
        directory: the run.
        hashes: read and hash every file; else manifest and file sizes are looked at.

    Raises:
        CheckpointError: they may not be read by this user.
    """
    known = step_directories(directory.checkpoints)
    found = [look_at(step, path, hashes=hashes) for step, path in known]
    sound = [info.step for info in found if not info.problem]
    best = [info.step for info in found if info.is_best]
    uploads = read_uploads(directory) if found else {}
    return [
        replace(
            info,
            is_best=bool(best) and info.step == best[-1],
            is_last=bool(sound) and info.step == sound[-1],
            upload=_upload(info, uploads.get(info.step)),
        )
        for info in found
    ]


def look_at(step: int, path: Path, *, hashes: bool = False) -> CheckpointInfo:
    """Return the checkpoint in the directory ``path`` by itself, without its marks in a run.

    Raises:
        CheckpointError: it may not be read by this user.
    """
    size, created, is_best, wrong = 0, "", False, []
    try:
        wrong = verify(path, hashes=hashes)
        manifest = read_manifest(path)
        size, created, is_best = manifest.size, manifest.created, manifest.is_best
    except CheckpointError as error:
        wrong = wrong or [error.message]
    told = _metadata(path)
    return CheckpointInfo(
        step=step,
        path=path,
        size=size,
        created=created,
        is_best=is_best,
        is_last=False,
        is_pinned=(path / PINNED).exists(),
        problem="; ".join(wrong),
        epoch=told.get("epoch"),
        train_loss=told.get("train_loss"),
        val_loss=(told.get("evaluation") or {}).get("val/loss"),
    )


def run_id_of(checkpoint: Path) -> str:
    """Return the run that the directory of a checkpoint is in, empty where it is on its own."""
    folder = checkpoint.absolute().parent
    return folder.parent.name if folder.name == "checkpoints" else ""


def stored_checkpoints(commits: Sequence[Commit]) -> list[CheckpointInfo]:
    """Return what is committed in storage as lists show it, with paths below the run there."""
    best = [commit.step for commit in commits if commit.is_best]
    return [
        CheckpointInfo(
            step=commit.step,
            path=Path("checkpoints") / step_name(commit.step),
            size=commit.size,
            created=commit.created,
            is_best=best[-1:] == [commit.step],
            is_last=commit is commits[-1],
            is_pinned=False,
            problem="",
            upload="committed",
        )
        for commit in commits
    ]


def artifacts_of(directory: RunDirectory, recipe: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files and folders of a run that people look for, by what they are.

    ``recipe`` is the resolved recipe; empty when it cannot be read.
    """
    log_file = (recipe.get("run") or {}).get("log_file") or _default_log_file()
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
    found = {}
    for name in tracker_names(recipe):
        folder = directory.trackers / name
        place = Cursor(tracker_cursor(directory, name)).link
        if not place and folder.exists():
            place = _viewer(name, folder) or str(folder)
        if place:
            found[name] = place
    return found


def _viewer(tracker: str, folder: Path) -> str:
    """Return the command that shows what a tracker wrote into ``folder``, if it has one."""
    from llmforge.plugins import load  # with what checks recipes: slow to import

    try:
        return load("tracker", tracker).viewer.format(directory=folder)
    except PluginError:  # not installed here; the folder is still worth naming
        return ""


def pending_of(directory: RunDirectory, recipe: Mapping[str, Any]) -> dict[str, int]:
    """Return how many events wait for each tracker of the run that has not been given all."""
    counts = {name: pending_events(directory, name) for name in tracker_names(recipe)}
    return {name: count for name, count in counts.items() if count}


def tracker_names(recipe: Mapping[str, Any]) -> list[str]:
    """Return the trackers a resolved recipe selects."""
    names = (recipe.get("tracker") or {}).get("names") or ()
    return [str(name) for name in names]


def _metadata(path: Path) -> dict[str, Any]:
    try:
        return read_metadata(path)
    except CheckpointError:  # a file of the manifest that is missing is named as its problem
        return {}


def _upload(info: CheckpointInfo, record: UploadRecord | None) -> str:
    """Return how the upload of exactly this checkpoint stands."""
    if record is None or info.problem:
        return ""
    same = record.checkpoint == fingerprint(open_checkpoint(info.path))
    return record.state if same else ""


def _default_log_file() -> str:
    from llmforge.recipe.schema import RunTable  # with all that checks recipes: slow to import

    return str(RunTable.model_fields["log_file"].default)
