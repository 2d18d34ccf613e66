"""One courier for each run: whoever delivers or uploads holds this lock."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO

from llmforge.errors import RunLockedError
from llmforge.file_lock import lock_file
from llmforge.run_root import root_option
from llmforge.rundir import RunDirectory


def has_courier(directory: RunDirectory) -> bool:
    """Return whether some process delivers or uploads for the run now."""
    try:
        with _file(directory).open("r", encoding="ascii") as lock:
            lock_file(lock, shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def only_courier(directory: RunDirectory, *, wait: float) -> IO[str]:
    """Return the lock of the run's courier, waiting for another one to end.

    The lock is given back when the file is closed or the process ends.

    Args:
        directory: the run.
        wait: seconds.

    Raises:
        RunLockedError: the other one still works.
    """
    directory.cursors.mkdir(parents=True, exist_ok=True)
    lock = _file(directory).open("a", encoding="ascii")
    deadline = time.monotonic() + wait
    while True:
        try:
            lock_file(lock)
            return lock
        except OSError:
            if time.monotonic() > deadline:
                lock.close()
                run = f"{directory.id}{root_option(directory.root)}"
                raise RunLockedError(
                    f"another process delivers and uploads for run {directory.id} already",
                    remedy=f"'forge uploads status {run}' shows how far it is",
                ) from None
            time.sleep(0.1)


def _file(directory: RunDirectory) -> Path:
    return directory.cursors / ".lock"
