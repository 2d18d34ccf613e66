"""The journal: the training process appends events, the courier reads them back.

One JSON line per event. Appending is one ``write`` to the page cache; a torn last line, left by a
killed process, is cut off before anything is appended after it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llmforge.events import Event, RunStarted, decode, encode
from llmforge.rundir.atomic import append_line

_CHUNK = 1 << 20


class JournalWriter:
    """Appends events; any thread may, and any process.

    Args:
        path: the journal.
        cut: cut off a torn last line first; only for the process that holds the run's lock.
    """

    def __init__(self, path: Path, *, cut: bool = True) -> None:
        if cut:
            cut_torn_line(path)
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def append(self, event: Event) -> None:
        """Append ``event`` as one line."""
        line = encode(event).encode() + b"\n"
        with self._lock:
            append_line(self._file, line)

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        self._file.close()


def cut_torn_line(path: Path) -> None:
    """Cut an unfinished last line off a file of lines; a missing file is left missing."""
    try:
        with path.open("r+b") as file:
            end = file.seek(0, 2)
            keep = end
            while keep > 0:
                start = max(0, keep - _CHUNK)
                file.seek(start)
                newline = file.read(keep - start).rfind(b"\n")
                if newline >= 0:
                    keep = start + newline + 1
                    break
                keep = start
            if keep != end:
                file.truncate(keep)
    except FileNotFoundError:
        return


def read_events(path: Path, offset: int) -> Iterator[tuple[Event | None, int]]:
    """Yield the complete events from byte ``offset`` on, each with the offset after it.

    A line that is no event of this version is yielded as None, so that a reader gets past it.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                event = decode(line.decode())
            except (ValueError, TypeError):
                event = None
            yield event, offset


def last_start(path: Path, before: int) -> RunStarted | None:
    """Return the newest ``RunStarted`` that ends at or before byte ``before``."""
    found: RunStarted | None = None
    for event, end in read_events(path, 0):
        if end > before:
            break
        if isinstance(event, RunStarted):
            found = event
    return found
