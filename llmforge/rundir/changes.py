"""Which runs changed since somebody last looked: an empty file per run, left by who writes.

The files of a run are the truth. A reader that keeps an index of many runs would have to look at
each one to notice a change; instead, whoever writes a record leaves a mark here, and the reader
takes it away before it reads the run, so that no change falls between the two. Marks are hints:
where they cannot be written, nothing fails and the reader finds out later.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from llmforge.rundir.atomic import OPEN_FLAGS
from llmforge.rundir.layout import ARCHIVE

INDEX = ".index"
"""Holds the index of the runs and the marks, below the directory of all runs."""


def marks_path(root: Path) -> Path:
    """Return the folder of the marks."""
    return root / INDEX / "changed"


def mark_changed(root: Path, run_id: str) -> None:
    """Leave a mark that ``run_id`` changed; call it after the change."""
    if root.name == ARCHIVE:
        return
    path = marks_path(root) / run_id
    with contextlib.suppress(OSError):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | OPEN_FLAGS, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | OPEN_FLAGS, 0o666)
        os.close(descriptor)
