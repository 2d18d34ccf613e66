"""How far work that may take long has come: counted where it is done, shown where a terminal is.

Code that works through bytes or tokens counts them in a :class:`Task`, which costs an addition. A
display, if the process has one, reads the tasks when it draws; without one nothing is shown.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Protocol

SHOWN_AFTER = 2.0
"""Seconds after which work is shown: what takes less needs no bar."""

_lock = threading.Lock()
_tasks: list[Task] = []
_display: Display | None = None


class Task:
    """Work under way.

    Attributes:
        what: what is being done, for people.
        total: how much there is to do; None when nobody knows. It may be set later.
        unit: what is counted: ``bytes``, ``tokens``, ``characters`` …
        done: how much is done.
    """

    def __init__(self, what: str, *, total: float | None, unit: str) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.done = 0.0
        self._started = self._part_started = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, amount: float) -> None:
        """Count ``amount`` more as done; from any thread."""
        with self._lock:
            self.done += amount

    def restart(self, what: str, *, total: float) -> None:
        """Begin another part of the work, which is counted by itself."""
        with self._lock:
            self.what, self.total, self.done = what, total, 0.0
            self._part_started = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the rate so far; None when that cannot be said."""
        if not self.total or not self.done:
            return None
        spent = time.monotonic() - self._part_started
        return max(0.0, self.total - self.done) / self.done * spent


class Display(Protocol):
    """What shows tasks; called by the threads that do the work, so it returns at once."""

    def task_started(self, task: Task) -> None:
        """Take note of a new task; :func:`under_way` says when it is to be shown."""
        ...

    def task_ended(self, task: Task) -> None:
        """Show it no longer."""
        ...


@contextlib.contextmanager
def track(what: str, *, total: float | None = None, unit: str = "bytes") -> Iterator[Task]:
    """Return a context for work that may take long; its task is shown if it does.

    On a terminal there is a bar and the time left once it has taken :data:`SHOWN_AFTER` seconds::

        with track("reading the corpus", total=size) as task:
            for block in blocks:
                task.advance(len(block))

    Args:
        what: what is being done, for people.
        total: how much there is to do, when that is known.
        unit: what is counted.
    """
    task = Task(what, total=total, unit=unit)
    with _lock:
        _tasks.append(task)
        display = _display
    if display is not None:
        display.task_started(task)
    try:
        yield task
    finally:
        with _lock:
            _tasks.remove(task)
            display = _display
        if display is not None:
            display.task_ended(task)


def under_way(*, seconds: float = SHOWN_AFTER) -> list[Task]:
    """Return the tasks that have taken longer than ``seconds``, oldest first."""
    with _lock:
        return [task for task in _tasks if task.seconds >= seconds]


def show_on(display: Display | None) -> Display | None:
    """Let ``display`` show the tasks of this process, or nobody; return what did before."""
    global _display
    with _lock:
        before, _display = _display, display
    return before


def duration(seconds: float) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size_text(size: int) -> str:
    """Return ``size`` in bytes as people read it, for example ``1.6 GB``."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
