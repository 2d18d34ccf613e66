"""Locks on files, which the system drops however the process that holds one ends."""

from __future__ import annotations

from typing import IO, Any

import portalocker
from portalocker.exceptions import AlreadyLocked, LockException


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
