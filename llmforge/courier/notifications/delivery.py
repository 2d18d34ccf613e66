"""Delivering a run's alerts to one target: once each, tried again until it takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.courier.cursor import Cursor
from llmforge.courier.delivery import Delivery
from llmforge.courier.journal import read_events
from llmforge.courier.notifications.alerts import NOTIFY
from llmforge.courier.notifications.message import message_of
from llmforge.events import Alert, Event
from llmforge.rundir import RunDirectory

if TYPE_CHECKING:
    from llmforge.courier.notifications.targets import Sender


class AlertCursor(Cursor):
    """A cursor that passes over everything but alerts, and remembers which were sent."""

    def fresh(self, event: Event) -> Event | None:
        """Return ``event`` if it is an alert that was not sent."""
        new = isinstance(event, Alert) and event.id not in self._marks
        return event if new else None

    def advance(self, event: Event | None, offset: int, *, delivered: bool) -> None:
        """Move past ``event``."""
        super().advance(event, offset, delivered=delivered)
        if delivered and isinstance(event, Alert):
            self._marks[event.id] = 0


def notify_cursor(directory: RunDirectory, target: str) -> Path:
    """Return the file that remembers what ``target`` was told of a run."""
    return directory.cursors / f"{NOTIFY}-{target}.json"


def pending_messages(directory: RunDirectory) -> dict[str, int]:
    """Return how many messages wait, by target; only those that lack some."""
    found = {}
    for path in sorted(directory.cursors.glob(f"{NOTIFY}-*.json")):
        count = _unsent(directory.journal, AlertCursor(path))
        if count:
            found[f"{NOTIFY}.{path.stem.removeprefix(f'{NOTIFY}-')}"] = count
    return found


def _unsent(journal: Path, cursor: Cursor) -> int:
    found = read_events(journal, cursor.offset)
    return sum(1 for event, _ in found if event is not None and cursor.fresh(event) is not None)


class _Target:
    """Stands where a delivery has a tracker."""

    link = ""

    def __init__(self, name: str) -> None:
        self.name = f"{NOTIFY}.{name}"

    def has_arrived(self, event: Event) -> bool:
        """Return True: what was sent without an error has arrived."""
        del event
        return True


class Notifier(Delivery):
    """Sends the alerts in a run's journal to one target.

    A target that is new to the run is told nothing of what was before.

    Args:
        directory: the run.
        target: its name: ``webhook``, ``command`` or ``email``.
        send: sends a message, or raises.
        on_error: told the name and the message of a failure, once per kind of message.
    """

    def __init__(
        self,
        directory: RunDirectory,
        target: str,
        *,
        send: Sender,
        on_error: Callable[[str, str], None],
    ) -> None:
        path = notify_cursor(directory, target)
        if not path.exists():
            new = AlertCursor(path)
            new.offset = directory.journal.stat().st_size if directory.journal.exists() else 0
            new.save()

        def call(hook: str, event: Event) -> None:
            del hook
            if isinstance(event, Alert):
                send(message_of(event))

        super().__init__(
            _Target(target),
            call=call,
            journal=directory.journal,
            cursor=AlertCursor(path),
            on_error=on_error,
        )

    def pending(self) -> int:
        """Return how many messages are still to be sent."""
        return _unsent(self._journal, self._cursor)
