"""The lock that lets one process at a time train a run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from llmforge.errors import RunError, RunLockedError
from llmforge.file_lock import lock_file
from llmforge.rundir.atomic import OPEN_FLAGS, write_remedy
from llmforge.rundir.layout import lock_path

_ATTEMPTS = 5
_PAUSE_SECONDS = 0.02


class RunLock:
    """An exclusive lock on a run id, released by the kernel however the process ends.

    The file stays behind; only the kernel's lock on it counts. Its text names the holder for
    people.

    Raises:
        RunLockedError: on entering, when another process holds it.
        RunError: on entering, when the file cannot be written or its file system has no locks.
    """

    def __init__(self, root: Path, run_id: str) -> None:
        self._path = lock_path(root, run_id)
        self._run_id = run_id
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        descriptor = self._open()
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            holder = _describe(descriptor)
            os.close(descriptor)
            raise RunLockedError(
                f"run {self._run_id} is being trained by another process ({holder})",
                remedy=f"wait for it, or stop it; 'forge runs status {self._run_id}' follows it",
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise RunError(
                f"{self._path} cannot be locked: {error.strerror}",
                remedy="put run.root on a file system with locks",
            ) from error
        self._descriptor = descriptor
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
        with contextlib.suppress(OSError):  # only people read it, and a full disk shows elsewhere
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, text.encode())
        return self

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o644)
        except OSError as error:
            raise RunError(
                f"the lock {self._path} cannot be written: {error.strerror}",
                remedy=f"{write_remedy(error, 'the directory of all runs')}, or choose another one "
                "with run.root or FORGE_RUN_ROOT",
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_holder(root: Path, run_id: str) -> int | None:
    """Return the process on this machine that trains ``run_id``; None when none does.

    One that has just taken the lock may not be named yet, but the one before it.
    """
    if not is_locked(root, run_id):
        return None
    try:
        return int(json.loads(lock_path(root, run_id).read_bytes())["pid"])
    except (OSError, ValueError, LookupError, TypeError):  # Windows lets nobody read it
        return 0


def is_locked(root: Path, run_id: str) -> bool:
    """Return whether a process on this machine is training ``run_id``."""
    try:
        descriptor = os.open(lock_path(root, run_id), os.O_RDONLY | OPEN_FLAGS)
    except OSError:
        return False
    try:
        lock_file(descriptor, shared=True)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: nobody can be training here
        return False
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int) -> None:
    """Take the lock; :func:`is_locked` of another process may hold it for an instant."""
    for _ in range(_ATTEMPTS - 1):
        try:
            lock_file(descriptor)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    lock_file(descriptor)


def _describe(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder: dict[str, Any] = json.loads(os.read(descriptor, 4096))
    except (OSError, ValueError):  # Windows lets nobody read what is locked
        return "just starting"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"process {holder['pid']} on {holder['host']} since {since}"
