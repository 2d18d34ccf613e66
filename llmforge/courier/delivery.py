"""Delivering the journal to one tracker, in a thread of its own, at the tracker's own pace."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmforge.courier.cursor import Cursor
from llmforge.courier.journal import last_start, read_events
from llmforge.events import Event, RunStarted

POLL_SECONDS = 0.25
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 30.0


class Delivery(threading.Thread):
    """Gives one tracker every event once, in order, retrying the one that fails.

    Args:
        name: the tracker's name.
        call: calls a lifecycle hook of this tracker: ``call(hook, event)``.
        journal: the run's journal.
        cursor: the file that remembers what was delivered.
        on_error: told the message of a failure, once per distinct message.
    """

    def __init__(
        self,
        name: str,
        *,
        call: Callable[[str, Event], Any],
        journal: Path,
        cursor: Path,
        on_error: Callable[[str, str], None],
    ) -> None:
        super().__init__(name=f"deliver-{name}", daemon=True)
        self.tracker = name
        self._call = call
        self._journal = journal
        self._cursor = Cursor(cursor)
        self._on_error = on_error
        self._reported: set[str] = set()
        self._closing = threading.Event()
        self._wake = threading.Event()

    def close(self) -> None:
        """Ask for the rest to be delivered and the thread to end; :meth:`join` waits for it."""
        self._closing.set()
        self._wake.set()

    @property
    def delivered(self) -> int:
        """Events delivered so far, over all starts of the run."""
        return self._cursor.delivered

    def pending(self) -> int:
        """Return how many events of the journal are still to be delivered."""
        return sum(1 for _ in read_events(self._journal, self._cursor.offset))

    def run(self) -> None:
        """Deliver until closed and nothing is left."""
        # What an earlier process left over needs its start told to this process's tracker first.
        opening = last_start(self._journal, self._cursor.offset)
        while True:
            closing = self._closing.is_set()
            for event, offset in read_events(self._journal, self._cursor.offset):
                fresh = self._cursor.fresh(event) if event is not None else None
                if fresh is not None:
                    told = [fresh]
                    if opening is not None and not isinstance(fresh, RunStarted):
                        told.insert(0, opening)
                    if not all(self._deliver(item) for item in told):
                        return
                    opening = None
                self._cursor.advance(fresh, offset, delivered=fresh is not None)
                self._cursor.save()
            if closing:
                return
            self._wait(POLL_SECONDS)

    def _deliver(self, event: Event) -> bool:
        """Call the tracker until it takes ``event``; False when closed before it did."""
        delay = FIRST_RETRY_SECONDS
        while True:
            last_try = self._closing.is_set()
            try:
                self._call(event.hook, event)
                return True
            except (Exception, SystemExit) as error:  # a tracker may raise anything; it is reported
                self._report(f"{event.hook}: {type(error).__name__}: {error}")
            if last_try:
                return False
            self._wait(delay)
            delay = min(delay * 2, LONGEST_RETRY_SECONDS)

    def _report(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            self._on_error(self.tracker, message)

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        if not self._closing.is_set():
            self._wake.clear()
