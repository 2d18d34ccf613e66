"""Locks on files, which the system drops however the process that holds one ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import portalocker
from portalocker.exceptions import AlreadyLocked, LockException

_POLL_SECONDS = 0.1


def lock_file(file: IO[Any] | int, *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file, or a descriptor, until it is closed.

    Args:
        file: what to lock; the file itself stays as it is.
        shared: let others hold a shared lock at the same time; only an exclusive one is kept out.
        wait: wait for whoever holds it.

    Raises:
        BlockingIOError: another holds it.
        OSError: the file system has no locks.
    """
    flags = portalocker.LockFlags.SHARED if shared else portalocker.LockFlags.EXCLUSIVE
    if not wait:
        flags |= portalocker.LockFlags.NON_BLOCKING
    try:
        portalocker.lock(file, flags)
    except AlreadyLocked as error:
        raise BlockingIOError("another process holds the lock") from error
    except LockException as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise OSError(str(error)) from error


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
