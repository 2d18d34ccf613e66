"""Clearing a run, so that the same command trains it afresh; nothing is deleted."""

from __future__ import annotations

import re
from pathlib import Path

from llmforge.errors import RunError
from llmforge.rundir.layout import ARCHIVE, RunDirectory, archive_path, completion_path
from llmforge.rundir.lock import RunLock
from llmforge.rundir.record import read_record


def next_attempt(root: Path, run_id: str) -> int:
    """Return the number of the next fresh start of ``run_id``, from 1."""
    pattern = re.compile(re.escape(run_id) + r"\.attempt-(\d+)")
    archive = root / ARCHIVE
    names = [path.name for path in archive.iterdir()] if archive.is_dir() else []
    taken = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
    return max(taken, default=0) + 1


def clear_run(root: Path, run_id: str) -> Path | None:
    """Move a run and its completion aside; return where the run lies now, None if there is none.

    Raises:
        RunLockedError: the run is being trained.
        RunError: the disk does not let it be moved.
    """
    with RunLock(root, run_id):
        directory = RunDirectory(root / run_id)
        completion = completion_path(root, run_id)
        aside = archive_path(root, run_id, _attempt(directory))
        if not directory.path.exists() and not completion.exists():
            return None
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            # One rename moves everything, so that a kill in between leaves the run clearable.
            directory.path.mkdir(exist_ok=True)
            if completion.exists():
                completion.rename(directory.completion)
            directory.path.rename(aside)
        except OSError as error:
            raise RunError(
                f"run {run_id} cannot be moved to {aside}: {error.strerror}",
                remedy=f"make {root} and what is in it writable",
            ) from error
        return aside


def _attempt(directory: RunDirectory) -> int:
    """Return the attempt a run is: of a run started elsewhere it is more than was cleared here."""
    counted = next_attempt(directory.root, directory.id)
    try:
        return max(counted, read_record(directory).attempt)
    except RunError:  # cleared because it cannot be read, or never started
        return counted
