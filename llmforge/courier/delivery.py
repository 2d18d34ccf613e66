"""Delivering the journal to one tracker, in a thread of its own, at the tracker's own pace."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmforge.courier.cursor import Cursor
from llmforge.courier.journal import last_start, read_events
from llmforge.errors import DeliveryLost
from llmforge.events import Event, MetricsLogged, RunStarted

POLL_SECONDS = 0.25
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 30.0
MOST_AT_ONCE = 100
_MOST_REPORTS = 20
_CHANGING = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)


class Recipient(Protocol):
    """Who is given events: a tracker, as far as a delivery needs it.

    Attributes:
        name: what it is called in messages.
    """

    name: str

    @property
    def link(self) -> str:
        """Where what it was given can be seen."""
        ...

    def has_arrived(self, event: Event) -> bool:
        """Return whether what it took is there."""
        ...


class Delivery(threading.Thread):
    """Gives one tracker every event once, in order, retrying the one that fails.

    An event is delivered when it has arrived, which for most trackers is when they took it. What
    waits stays in the journal: a tracker that never takes anything costs no memory.

    Args:
        tracker: the component, or whoever else is given events.
        call: calls a lifecycle hook of this tracker: ``call(hook, event)``.
        journal: the run's journal.
        cursor: remembers what was delivered; the file alone for a usual one.
        on_error: told the tracker's name and the message of a failure, once per kind of message.
        on_arrival: told each event that has arrived; a failure of it is reported and costs nothing.
    """

    def __init__(
        self,
        tracker: Recipient,
        *,
        call: Callable[[str, Event], Any],
        journal: Path,
        cursor: Path | Cursor,
        on_error: Callable[[str, str], None],
        on_arrival: Callable[[Event], None] = lambda _: None,
    ) -> None:
        super().__init__(name=f"deliver-{tracker.name}", daemon=True)
        self.tracker = tracker
        self._take_metrics: Callable[[Sequence[MetricsLogged]], None] | None
        self._take_metrics = getattr(tracker, "take_metrics", None)
        self._call = call
        self._journal = journal
        self._on_error = on_error
        self._on_arrival = on_arrival
        self._reported: set[str] = set()
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._cursor = Cursor(cursor) if isinstance(cursor, Path) else cursor
        self._go_back()

    def close(self) -> None:
        """Ask for the rest to be delivered and the thread to end; :meth:`join` waits for it."""
        self._closing.set()
        self._wake.set()

    @property
    def delivered(self) -> int:
        """Events delivered so far, over all starts of the run."""
        return self._cursor.delivered

    @property
    def link(self) -> str:
        """Where what was delivered can be seen; empty when the tracker does not say."""
        return self._cursor.link

    def pending(self) -> int:
        """Return how many events of the journal are still to be delivered."""
        return sum(1 for _ in read_events(self._journal, self._cursor.offset))

    def run(self) -> None:
        """Deliver until closed and nothing is left."""
        while True:
            closing = self._closing.is_set()
            try:
                if not self._tell_new():
                    return
                self._note_arrivals()
            except DeliveryLost as error:
                self._report(error.message)
                self._go_back()
                self._wait(FIRST_RETRY_SECONDS)
            if closing and not self._under_way:
                return
            self._wait(POLL_SECONDS)

    def _go_back(self) -> None:
        """Take up where deliveries stand, as a new process does."""
        self._told = self._cursor.ahead()
        self._under_way: deque[tuple[list[Event], int]] = deque()
        # What an earlier process left over needs its start told to this process's tracker first.
        self._opening = last_start(self._journal, self._cursor.offset)

    def _tell_new(self) -> bool:
        """Tell what is new in the journal; False when closed before the tracker took it."""
        for events, end in self._waiting():
            if self._opening is not None and events:
                if not isinstance(events[0], RunStarted) and not self._deliver([self._opening]):
                    return False
                self._opening = None
            if events and not self._deliver(events):
                return False
            _advance(self._told, events, end)
            self._under_way.append((events, end))
            self._note_arrivals()
        return True

    def _note_arrivals(self) -> None:
        """Move the cursor past what has arrived."""
        before = len(self._under_way)
        while self._under_way:
            events, end = self._under_way[0]
            if not all(self._has_arrived(event) for event in events):
                break
            for event in events:
                self._look_after(event)
            self._under_way.popleft()
            _advance(self._cursor, events, end)
        if len(self._under_way) < before:
            self._cursor.link = str(self.tracker.link or self._cursor.link)
            self._cursor.save()

    def _has_arrived(self, event: Event) -> bool:
        try:
            return self.tracker.has_arrived(event)
        except DeliveryLost:
            raise
        except Exception as error:  # a tracker may raise anything; it is reported
            self._report(f"{event.hook}: {type(error).__name__}: {error}")
            return False

    def _look_after(self, event: Event) -> None:
        try:
            self._on_arrival(event)
        except (
            Exception
        ) as error:  # it asks the tracker's service, whose package may raise anything
            self._report(f"{event.hook}: {type(error).__name__}: {error}")

    def _waiting(self) -> Iterator[tuple[list[Event], int]]:
        """Yield what to deliver next, and where it ends in the journal.

        That is one event, several rows of metrics for a tracker that takes them together, or
        nothing where an event is not new to the tracker. Whoever iterates moves ``_told`` on.
        """
        rows: list[Event] = []
        end = self._told.offset
        for event, after in read_events(self._journal, end):
            if rows and not (len(rows) < MOST_AT_ONCE and _follows(event, rows[-1])):
                yield rows, end
                rows = []
            fresh = self._told.fresh(event) if event is not None else None
            if isinstance(fresh, MetricsLogged) and self._take_metrics is not None:
                rows.append(fresh)
            elif fresh is not None or not rows:
                yield ([] if fresh is None else [fresh]), after
            end = after
        if rows:
            yield rows, end

    def _deliver(self, events: Sequence[Event]) -> bool:
        """Call the tracker until it takes ``events``; False when closed before it did."""
        delay = FIRST_RETRY_SECONDS
        while True:
            last_try = self._closing.is_set()
            try:
                self._tell(events)
                return True
            except DeliveryLost:
                raise
            except (Exception, SystemExit) as error:  # a tracker may raise anything; it is reported
                self._report(f"{events[0].hook}: {type(error).__name__}: {error}")
            if last_try:
                return False
            self._wait(delay)
            delay = min(delay * 2, LONGEST_RETRY_SECONDS)

    def _tell(self, events: Sequence[Event]) -> None:
        rows = [event for event in events if isinstance(event, MetricsLogged)]
        if rows and self._take_metrics is not None:
            self._take_metrics(rows)
        else:
            for event in events:
                self._call(event.hook, event)

    def _report(self, message: str) -> None:
        kind = _CHANGING.sub("#", message)
        if kind not in self._reported and len(self._reported) < _MOST_REPORTS:
            self._reported.add(kind)
            self._on_error(self.tracker.name, message)

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        if not self._closing.is_set():
            self._wake.clear()


def _advance(cursor: Cursor, events: Sequence[Event], end: int) -> None:
    for event in events:
        cursor.advance(event, end, delivered=True)
    if not events:
        cursor.advance(None, end, delivered=False)


def _follows(event: Event | None, row: Event) -> bool:
    """Return whether ``event`` is a row of metrics of a later step than ``row``."""
    return (
        isinstance(event, MetricsLogged)
        and isinstance(row, MetricsLogged)
        and event.step > row.step
    )
