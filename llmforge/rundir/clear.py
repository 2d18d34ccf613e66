"""Clearing a run, so that the same command trains it afresh; nothing is deleted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from llmforge.rundir.layout import RunDirectory, archive_path, completion_path
from llmforge.rundir.lock import RunLock


def next_attempt(root: Path, run_id: str) -> int:
    """Return the number of the next fresh start of ``run_id``, from 1."""
    pattern = re.compile(re.escape(run_id) + r"\.attempt-(\d+)")
    archive = root / ".archive"
    names = [path.name for path in archive.iterdir()] if archive.is_dir() else []
    taken = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
    return max(taken, default=0) + 1


def clear_run(root: Path, run_id: str) -> Path | None:
    """Move a run and its completion aside; return where the run lies now, None if there is none.

    Raises:
        RunLockedError: the run is being trained.
    """
    with RunLock(root, run_id):
        directory = RunDirectory(root / run_id)
        completion = completion_path(root, run_id)
        aside = archive_path(root, run_id, next_attempt(root, run_id))
        if directory.path.exists():
            aside.parent.mkdir(parents=True, exist_ok=True)
            directory.path.rename(aside)
        elif completion.exists():
            aside.mkdir(parents=True)
        if completion.exists():
            shutil.move(completion, aside / "completion.json")
        return aside if aside.exists() else None
