"""One builder at a time for an entry of the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmforge.file_lock import lock_file

_POLL_SECONDS = 0.1


@contextmanager
def build_lock(
    path: Path, *, notice: Callable[[str], None], check_stop: Callable[[], None]
) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; the system drops it when the process dies.

    Args:
        path: the lock file; it stays behind, empty.
        notice: told once when another process holds the lock.
        check_stop: called while waiting.
    """
    with path.open("a") as file:
        waited = False
        while True:
            try:
                lock_file(file)
                break
            except BlockingIOError:
                if not waited:
                    notice("another process is preparing the same data: waiting for it")
                    waited = True
                check_stop()
                time.sleep(_POLL_SECONDS)
        yield
