"""Bars on a terminal for work that takes long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmforge.progress import SHOWN_AFTER, Task, duration, under_way
from llmforge.run.reporting.console import error_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

_POLL_SECONDS = 0.1
_WIDTH = 40


class TerminalBars:
    """Shows a bar for each task below what is printed, and takes it away when the task has ended.

    Args:
        console: returns where to; it is a terminal.
        after: seconds after which a task is shown.
    """

    def __init__(
        self, *, console: Callable[[], Console] = error_console, after: float = SHOWN_AFTER
    ) -> None:
        self._console = console
        self._after = after
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._idle: threading.Event | None = None

    def task_started(self, task: Task) -> None:
        """Look from now on whether there is something to show."""
        del task
        with self._lock:
            if self._idle is not None:
                return
            self._idle = threading.Event()
        threading.Thread(
            target=self._watch, args=(self._idle,), name="forge-progress", daemon=True
        ).start()

    def task_ended(self, task: Task) -> None:
        """Leave the terminal as it was once nothing is under way."""
        del task
        with self._lock:
            if under_way(seconds=0.0):
                return
            if self._idle is not None:
                self._idle.set()
            self._idle = None
            if self._live is not None:
                self._live.stop()
            self._live = None

    def _watch(self, idle: threading.Event) -> None:
        while not idle.wait(_POLL_SECONDS):
            with self._lock:
                if idle.is_set():
                    return
                if self._live is None and under_way(seconds=self._after):
                    with contextlib.suppress(OSError, ValueError):  # a terminal that has gone
                        self._live = self._start()

    def _start(self) -> Live:
        from rich.live import Live

        live = Live(
            get_renderable=self._table,
            console=self._console(),
            refresh_per_second=4,
            transient=True,
        )
        live.start(refresh=True)
        return live

    def _table(self) -> Table:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        add_bars(table, after=self._after)
        return table


def add_bars(table: Table, *, after: float = SHOWN_AFTER) -> None:
    """Add what has been under way for ``after`` seconds to a grid of two columns."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    for task in under_way(seconds=after):
        bar = Text("") if task.total is None else ProgressBar(task.total, task.done, width=_WIDTH)
        table.add_row(Text(task.what, style="bold"), bar)
        table.add_row("", Text(progress_text(task)))


def progress_text(task: Task) -> str:
    """Return how far a task has come, in words."""
    if task.total is None and not task.done:
        return duration(task.seconds)
    if task.total is None:
        rate = task.done / max(task.seconds, 1e-9)
        return f"{_amount(task.done, task.unit)}, {_amount(rate, task.unit)}/s"
    done = min(task.done, task.total)
    text = f"{done / (task.total or 1):.0%}  {_amount(done, task.unit)} of "
    text += _amount(task.total, task.unit)
    left = task.seconds_left
    return text if left is None else f"{text}  ETA {duration(left)}"


def _amount(value: float, unit: str) -> str:
    if unit != "bytes":
        return f"{value:,.0f} {unit}"
    from llmforge.checkpoint import size_text

    return size_text(int(value))
