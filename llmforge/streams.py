"""Standard output and error that a command does not depend on.

A run does not end because nobody reads what it prints: ``forge train | head -2`` closes its end,
an ssh session drops, the disk under a redirected log is full, a terminal hangs. What is printed
then is lost, and the run's own log file has it. Any other command ends when its reader is gone,
which is no error. Nor is a character that the encoding of the stream does not have.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import sys
import threading
from collections import deque
from typing import TextIO

from llmforge.errors import ForgeError

_MOST_WAITING = 1 << 20  # bytes
_STUCK_SECONDS = 2.0
_RETRY_SECONDS = 0.2
_GONE = frozenset({errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET})

_writers: dict[tuple[int, int], _Writer] = {}


class OutputClosed(Exception):
    """Raised where a command prints and its reader is gone: there is nothing left to do."""


def protect_streams(*names: str, keep_running: bool) -> None:
    """Replace standard output and error of this process by streams that no reader can end.

    Called once, before anything is printed.

    Args:
        names: the streams, ``stdout`` and ``stderr`` unless given.
        keep_running: drop what cannot be written, and never wait for a reader. Otherwise a reader
            that is gone raises :class:`OutputClosed`, and a full disk :class:`ForgeError`.
    """
    for fd in (0, 1, 2):
        _open_if_closed(fd)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    for name in names or ("stdout", "stderr"):
        fd = 1 if name == "stdout" else 2
        old: TextIO | None = getattr(sys, name)
        if old is not None and _is_windows_console(old):
            old.reconfigure(errors="replace")  # type: ignore[attr-defined]
            continue
        is_error = name == "stderr"
        raw = _Dropping(fd) if keep_running else _Direct(fd, silent=is_error)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw),  # type: ignore[type-var]
            encoding="utf-8" if old is None else old.encoding,
            errors="backslashreplace" if is_error else "replace",
            line_buffering=is_error or os.isatty(fd),
            write_through=getattr(old, "write_through", False),
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if keep_running:
        atexit.register(drain)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_writers.clear)


def drain() -> None:
    """Wait until what was printed is written, but not for a reader that takes nothing more."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, OutputClosed, ForgeError):
            stream.flush()
    for writer in _writers.values():
        writer.drain()


class _Direct(io.RawIOBase):
    """Writes to a file descriptor at once.

    Args:
        fd: the descriptor.
        silent: a failure is no error: what says what went wrong has no better place to say so.
    """

    def __init__(self, fd: int, *, silent: bool) -> None:
        self._fd = fd
        self._silent = silent
        self._failed = False

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self._failed:
            return len(data)
        try:
            return os.write(self._fd, data)
        except OSError as error:
            self._failed = True
            if self._silent:
                return len(data)
            if error.errno in _GONE:
                raise OutputClosed from None
            raise ForgeError(
                f"standard output cannot be written: {error.strerror}",
                remedy="free space, or send the output elsewhere",
            ) from None

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True


class _Dropping(_Direct):
    """Hands what is written to a thread; drops it when that waits for too much already."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, silent=True)
        state = os.fstat(fd)
        # One thread for a terminal that is both output and error, so that lines keep their order.
        self._file = (state.st_dev, state.st_ino)
        _writers.setdefault(self._file, _Writer())

    def write(self, data: bytes) -> int:  # type: ignore[override]
        writer = _writers.get(self._file)
        if writer is None:  # in a process forked from this one, which has no thread for it
            return super().write(data)
        writer.put(self._fd, bytes(data))
        return len(data)


class _Writer:
    """A thread that writes; only it waits for a terminal that hangs."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._written = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._write, name="forge-output", daemon=True).start()

    def put(self, fd: int, data: bytes) -> None:
        with self._changed:
            if self._size + len(data) > _MOST_WAITING:
                return
            self._waiting.append((fd, data))
            self._size += len(data)
            self._changed.notify_all()

    def drain(self) -> None:
        with self._changed:
            while self._size:
                before = self._written
                self._changed.wait_for(lambda: not self._size, timeout=_STUCK_SECONDS)
                if self._written == before:
                    return  # it hangs

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                fd, data = self._waiting.popleft()
            _write_all(fd, data)
            with self._changed:
                self._size -= len(data)
                self._written += len(data)
                self._changed.notify_all()


def _write_all(fd: int, data: bytes) -> None:
    """Write ``data``, or lose it: a later line may find the disk free, or the reader back."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            threading.Event().wait(_RETRY_SECONDS)
        except OSError:
            return


def _open_if_closed(fd: int) -> None:
    """Let a closed descriptor lead nowhere, lest the next file opened becomes standard output."""
    try:
        os.fstat(fd)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != fd:
            os.dup2(opened, fd)
            os.close(opened)


def _is_windows_console(stream: TextIO) -> bool:
    return sys.platform == "win32" and stream.isatty()
