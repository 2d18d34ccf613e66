"""Deleted runs: kept below ``.trash`` until somebody empties it.

A deleted run is its directory, under its id and the time of the deletion; its completion is in it.
What is being deleted for good has another name from the first instant, so that a kill half-way
leaves nothing to restore that is half a run.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmforge.errors import RunError
from llmforge.rundir.atomic import sync_directory, write_bytes, write_remedy
from llmforge.rundir.changes import mark_changed
from llmforge.rundir.layout import ARCHIVE, RunDirectory, completion_path
from llmforge.rundir.lock import RunLock
from llmforge.rundir.record import read_record

TRASH = ".trash"
_MARK = ".deleted-"
_REMOVED = ".removed-"
_CLEARED = re.compile(r".+\.attempt-\d+")


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
        RunError: another command was faster, or the disk does not let it be moved.
    """
    cleared = directory.root.name == ARCHIVE
    root = directory.root.parent if cleared else directory.root
    completion = completion_path(root, directory.id)
    target = root / TRASH / f"{directory.id}{_MARK}{time.time_ns() // 1_000_000}"
    with RunLock(root, directory.id):
        if not directory.path.exists() and (cleared or not completion.exists()):
            raise RunError(f"run {directory.id} is gone already")
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
                remedy=write_remedy(error, f"{root} and what is in it"),
            ) from error
    return target


def deleted_runs(root: Path) -> list[DeletedRun]:
    """Return the runs in the trash, the one deleted last first."""
    return sorted(_found(root), key=lambda item: item.deleted, reverse=True)


def restore_run(root: Path, item: DeletedRun) -> RunDirectory:
    """Move a deleted run back, and its completion; one that was cleared becomes a cleared one.

    Raises:
        RunError: there is a run of that id, or the disk does not let it be moved.
    """
    if _was_cleared(item):
        return _restore_cleared(root, item)
    directory = RunDirectory(root / item.run_id)
    completion = completion_path(root, item.run_id)
    with RunLock(root, item.run_id):
        known = _content(completion)  # that of this very run is what a killed restore left
        if directory.path.exists() or known not in (None, _content(item.directory.completion)):
            raise RunError(
                f"there is a run {item.run_id} in {root} again",
                remedy=f"'forge runs clear {item.run_id}' sets it aside; then restore",
            )
        try:
            if item.directory.completion.exists():
                # First, so that a run that is back is never trained for want of its completion.
                completion.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(completion, item.directory.completion.read_bytes())
            if item.directory.record.exists() or item.directory.checkpoints.exists():
                item.directory.path.rename(directory.path)
                directory.completion.unlink(missing_ok=True)
            else:  # there was no more than the completion
                shutil.rmtree(item.directory.path)
            sync_directory(root)
        except OSError as error:
            raise _not_moved_back(root, item, error) from error
    mark_changed(root, item.run_id)
    return directory


def remove_deleted(item: DeletedRun) -> None:
    """Delete a run in the trash for good, and what a killed deletion left there.

    Raises:
        RunError: not all of it could be deleted.
    """
    path = item.directory.path
    try:
        with contextlib.suppress(FileNotFoundError):  # another command was faster
            path.rename(path.with_name(f"{_REMOVED}{path.name}"))
        for rest in path.parent.glob(f"{_REMOVED}*"):
            _remove(rest)
    except OSError as error:
        raise RunError(
            f"{error.filename or path} cannot be deleted: {error.strerror}",
            remedy="make it and what is in it writable",
        ) from error


def _remove(path: Path) -> None:
    """Delete a directory that another process may be deleting, too."""
    while path.exists():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue


def _was_cleared(item: DeletedRun) -> bool:
    """Return whether a run was in the archive: it has a name there that is not its id."""
    if _CLEARED.fullmatch(item.run_id) is None:
        return False
    try:
        return read_record(item.directory).run_id != item.run_id
    except RunError:
        return True  # no run gets such a name by itself


def _restore_cleared(root: Path, item: DeletedRun) -> RunDirectory:
    directory = RunDirectory(root / ARCHIVE / item.run_id)
    with RunLock(root, item.run_id):
        try:
            directory.path.parent.mkdir(parents=True, exist_ok=True)
            if directory.path.exists():
                raise RunError(f"there is a run {item.run_id} in {directory.path.parent} again")
            item.directory.path.rename(directory.path)
            sync_directory(directory.path.parent)
        except OSError as error:
            raise _not_moved_back(root, item, error) from error
    return directory


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _not_moved_back(root: Path, item: DeletedRun, error: OSError) -> RunError:
    return RunError(
        f"run {item.run_id} cannot be moved back: {error.strerror}",
        remedy=write_remedy(error, f"{root} and what is in it"),
    )


def _found(root: Path) -> Iterator[DeletedRun]:
    try:
        paths = sorted((root / TRASH).iterdir())
    except OSError:
        return
    for path in paths:
        run_id, mark, moment = path.name.rpartition(_MARK)
        if mark and moment.isdecimal() and not path.name.startswith("."):
            yield DeletedRun(run_id, RunDirectory(path), int(moment) / 1000)
