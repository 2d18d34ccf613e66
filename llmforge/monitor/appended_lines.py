"""Reading a file of lines that grows: each complete line once, even when the file was cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 20
_MARK_BYTES = 256
_KNOWN_BYTES = 16384


class AppendedLines:
    """A position in a file of lines, to be asked again and again.

    A resumed run cuts ``metrics.jsonl`` back to a checkpoint and appends to it again. That is
    noticed by the file's size, and when it has grown past the position already, by what is before
    the position: equal text there means that the rows were repeated exactly.

    Args:
        path: the file; it may appear later.
        last: begin with so many lines at the end of what there is; None begins at the top.
    """

    def __init__(self, path: Path, *, last: int | None = None) -> None:
        self.path = path
        self._offset = 0
        self._mark = b""
        self._stamp: tuple[int, int, int] | None = None
        self._end = 0
        if last is not None and (start := _start_of_last(path, last)):
            self._offset = start
            with path.open("rb") as file:
                file.seek(max(0, start - _MARK_BYTES))
                self._mark = file.read(min(start, _MARK_BYTES))

    @property
    def waiting(self) -> int:
        """Bytes that :meth:`lines` has to read, as :meth:`look` found."""
        return self._end - self._offset

    def look(self) -> bool:
        """Look at the file; return whether all of it has to be read again from the top."""
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
                if stamp == self._stamp:
                    return False
                self._stamp, self._end = stamp, found.st_size
                file.seek(self._offset - len(self._mark))
                if file.read(len(self._mark)) == self._mark:
                    return False
        except FileNotFoundError:
            self._stamp, self._end = None, 0
            if not self._offset:
                return False
        self._offset, self._mark = 0, b""
        return True

    def lines(self) -> Iterator[bytes]:
        """Yield the complete lines that :meth:`look` found, each with its line break.

        A last line that is still being written waits until it is complete.
        """
        if not self.waiting:
            return
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            rest = b""
            while self._offset + len(rest) < self._end:
                chunk = file.read(min(_CHUNK, self._end - self._offset - len(rest)))
                if not chunk:
                    return
                *complete, rest = (rest + chunk).split(b"\n")
                for line in complete:
                    self._offset += len(line) + 1
                    self._mark = (line + b"\n")[-_MARK_BYTES:]
                    yield line + b"\n"


class CountedLines:
    """How many lines of a growing file are behind a position that moves on, as cheaply as can be.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._from = self._to = self._count = 0

    def behind(self, offset: int) -> int:
        """Return how many complete lines begin at byte ``offset`` or later."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return 0
        if offset < self._from or size < self._to or offset > self._to:
            self._from = self._to = offset
            self._count = 0
        self._count -= self._lines(self._from, offset)
        self._count += self._lines(self._to, size)
        self._from, self._to = offset, max(size, offset)
        return self._count

    def _lines(self, begin: int, end: int) -> int:
        count = 0
        if begin < end:
            with self._path.open("rb") as file:
                file.seek(begin)
                while begin < end and (chunk := file.read(min(_CHUNK, end - begin))):
                    count += chunk.count(b"\n")
                    begin += len(chunk)
        return count


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last complete lines of a text file; none when it is missing."""
    try:
        with path.open("rb") as file:
            file.seek(_start_of_last(path, count))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    whole = [line for line in lines if line.endswith(b"\n")]
    return [line.decode(errors="replace").rstrip("\r\n") for line in whole[-count:]]


def _start_of_last(path: Path, count: int) -> int:
    """Return where the last ``count`` lines begin, or those of them at the file's very end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - _KNOWN_BYTES)
            file.seek(start)
            tail = file.read(size - start)
    except FileNotFoundError:
        return 0
    if start:  # what is before the first line break is no whole line
        first = tail.find(b"\n") + 1
        start, tail = start + first, tail[first:]
    lines = tail.splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    return start + sum(len(line) for line in lines[: max(0, len(lines) - count)])
