"""Deleted runs: kept below ``.trash`` until somebody empties it.

A deleted run is its directory, under its id and the time of the deletion; its completion is in it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmforge.errors import RunError
from llmforge.rundir.atomic import sync_directory
from llmforge.rundir.changes import mark_changed
from llmforge.rundir.layout import ARCHIVE, RunDirectory, completion_path
from llmforge.rundir.lock import RunLock

TRASH = ".trash"
_MARK = ".deleted-"


@dataclass(frozen=True)
class DeletedRun:
    """A run in the trash: its id, where it is, and when it was deleted, in seconds."""

    run_id: str
    directory: RunDirectory
    deleted: float


def delete_run(directory: RunDirectory) -> Path:
    """Move a run, cleared or not, and its completion to the trash; return where it is now.

    Raises:
        RunLockedError: the run is being trained.
        RunError: the disk does not let it be moved.
    """
    cleared = directory.root.name == ARCHIVE
    root = directory.root.parent if cleared else directory.root
    completion = completion_path(root, directory.id)
    target = root / TRASH / f"{directory.id}{_MARK}{time.time_ns() // 1_000_000}"
    with RunLock(root, directory.id):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # One rename moves everything, so that a kill in between leaves a run.
            directory.path.mkdir(exist_ok=True)
            if not cleared and completion.exists():
                completion.rename(directory.completion)
            directory.path.rename(target)
            sync_directory(target.parent)
        except OSError as error:
            raise RunError(
                f"run {directory.id} cannot be moved to {target}: {error.strerror}",
                remedy=f"make {root} and what is in it writable",
            ) from error
    return target


def deleted_runs(root: Path) -> list[DeletedRun]:
    """Return the runs in the trash, the one deleted last first."""
    return sorted(_found(root), key=lambda item: item.deleted, reverse=True)


def restore_run(root: Path, item: DeletedRun) -> RunDirectory:
    """Move a deleted run back, and its completion.

    Raises:
        RunError: there is a run of that id, or the disk does not let it be moved.
    """
    directory = RunDirectory(root / item.run_id)
    completion = completion_path(root, item.run_id)
    with RunLock(root, item.run_id):
        if directory.path.exists() or completion.exists():
            raise RunError(
                f"there is a run {item.run_id} in {root} again",
                remedy=f"'forge runs clear {item.run_id}' sets it aside; then restore",
            )
        try:
            if item.directory.completion.exists():
                # First, so that a run that is back is never trained for want of its completion.
                completion.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(item.directory.completion, completion)
            if item.directory.record.exists() or item.directory.checkpoints.exists():
                item.directory.path.rename(directory.path)
                directory.completion.unlink(missing_ok=True)
            else:  # there was no more than the completion
                shutil.rmtree(item.directory.path)
            sync_directory(root)
        except OSError as error:
            raise RunError(
                f"run {item.run_id} cannot be moved back: {error.strerror}",
                remedy=f"make {root} and what is in it writable",
            ) from error
    mark_changed(root, item.run_id)
    return directory


def remove_deleted(item: DeletedRun) -> None:
    """Delete a run in the trash for good.

    Raises:
        RunError: not all of it could be deleted.
    """
    try:
        shutil.rmtree(item.directory.path)
    except OSError as error:
        raise RunError(
            f"{item.directory.path} cannot be deleted: {error.strerror}",
            remedy="make it and what is in it writable",
        ) from error


def _found(root: Path) -> Iterator[DeletedRun]:
    try:
        paths = sorted((root / TRASH).iterdir())
    except OSError:
        return
    for path in paths:
        run_id, mark, moment = path.name.rpartition(_MARK)
        if mark and moment.isdecimal():
            yield DeletedRun(run_id, RunDirectory(path), int(moment) / 1000)
