"""The file that keeps the trials of a sweep on one file system: Optuna's journal, made unkillable.

Optuna's own file backend leaves its lock behind when a process is killed while it writes, and a
half-written line makes the journal unreadable for good. Here the kernel holds the lock and frees
it with the process, and the next writer cuts a half-written line off.

A killed process loses nothing that it wrote. A power cut may take the last second: what is lost is
proposed again, and its run found again with its checkpoint or its completion.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from llmforge.errors import RunError
from llmforge.file_lock import lock_file
from llmforge.rundir.atomic import OPEN_FLAGS

_TAIL = 1 << 16
_SYNC_SECONDS = 1.0


class JournalFile(BaseJournalBackend):
    """Operations of a study, a JSON line each, in the order in which they count.

    Args:
        path: the file; it is made when it is not there.

    Raises:
        RunError: the file cannot be used, or a line of it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = [0]  # where each known line begins
        self._synced = 0.0
        with self._open(os.O_RDWR | os.O_CREAT):
            pass

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return the operations from number ``log_number_from`` on."""
        first = min(log_number_from, len(self._starts) - 1)
        with self._open(os.O_RDONLY) as file:
            start = self._starts[first]
            content = _read_from(file, start)
        lines = content.split(b"\n")[:-1]  # what follows the last newline is being written
        found = []
        for number, line in enumerate(lines, start=first):
            start += len(line) + 1
            if number + 1 == len(self._starts):
                self._starts.append(start)
            if number >= log_number_from:
                found.append(self._decoded(line, number))
        return found

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add operations; every process sees them when this returns."""
        lines = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        with self._open(os.O_RDWR) as file:
            lock_file(file, wait=True)
            end = _end_of_lines(file)
            if end != os.fstat(file).st_size:
                os.ftruncate(file, end)
            os.lseek(file, end, os.SEEK_SET)
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(file, rest) :]
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(file)
                self._synced = time.monotonic()

    def _decoded(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            log: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise RunError(
                f"{self._path}:{number + 1} is damaged: {error}",
                remedy="nothing llmforge does leaves it so; restore the file, or delete it to "
                "begin the sweep again: trials that are complete are found again and reused",
            ) from error
        return log

    @contextmanager
    def _open(self, flags: int) -> Iterator[int]:
        try:
            file = os.open(self._path, flags | OPEN_FLAGS, 0o644)
        except OSError as error:
            raise RunError(
                f"{self._path} cannot be used: {error.strerror}",
                remedy="make the sweep's directory readable and writable",
            ) from error
        try:
            yield file
        finally:
            os.close(file)


def _read_from(file: int, start: int) -> bytes:
    parts = []
    while part := _read(file, 1 << 20, start):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _end_of_lines(file: int) -> int:
    """Return the position after the last newline."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(end - _TAIL, 0)
        found = _read(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _read(file: int, count: int, start: int) -> bytes:
    os.lseek(file, start, os.SEEK_SET)
    return os.read(file, count)
