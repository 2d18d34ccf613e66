"""Delivering later what the trackers of a run lack: the same courier, on a run nobody trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llmforge.courier.client import Courier
from llmforge.courier.cursor import Cursor, tracker_cursor
from llmforge.courier.journal import read_events
from llmforge.courier.notifications import NOTIFY, pending_messages
from llmforge.courier.notifications.delivery import notify_cursor
from llmforge.errors import PluginError, RecipeError
from llmforge.rundir.layout import RunDirectory
from llmforge.rundir.lock import RunLock

CLOSE_SECONDS = 5.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What one tracker got.

    Attributes:
        new: events delivered just now.
        total: events delivered over all starts of the run.
        pending: events that still wait in the journal.
        link: where they can be seen, a URL or a command; empty when the tracker does not say.
    """

    new: int
    total: int
    pending: int
    link: str


def pending_events(directory: RunDirectory, tracker: str) -> int:
    """Return how many events of a run's journal ``tracker`` has not been given."""
    offset = Cursor(tracker_cursor(directory, tracker)).offset
    return sum(1 for _ in read_events(directory.journal, offset))


def sync_trackers(
    directory: RunDirectory,
    trackers: Sequence[str],
    *,
    patience: float,
    on_error: Callable[[str, str], None],
    on_notice: Callable[[str], None],
) -> Mapping[str, Delivered]:
    """Deliver what waits in the journal of ``directory`` to ``trackers``.

    Args:
        directory: the run; it is locked meanwhile.
        trackers: their names; ``notify`` for messages to people.
        patience: seconds without any event being taken after which it gives up.
        on_error: told (tracker, message) when a tracker fails; called from another thread.
        on_notice: told what the trackers want the user to know.

    Raises:
        RunLockedError: a process trains the run.
        RecipeError: a tracker is not ready to take anything.
        PluginError: the courier died.
    """
    with RunLock(directory.root, directory.id):
        before = {path.name: Cursor(path).delivered for path in directory.cursors.glob("*.json")}
        courier = Courier(directory, on_error=on_error, only=trackers)
        try:
            if problems := courier.problems():
                raise RecipeError(problems, source=str(directory.recipe))
            for notice in courier.notices:
                on_notice(notice)
            _wait(directory, trackers, patience=patience)
            closed = courier.close(CLOSE_SECONDS)
        finally:
            courier.kill()
        if not closed:
            raise PluginError(
                "the courier did not say what it delivered",
                remedy=f"see {directory.trackers / 'courier.log'}",
            )
    return {
        name: Delivered(
            new=counts["delivered"] - before.get(_file_of(directory, name), 0),
            total=counts["delivered"],
            pending=counts["pending"],
            link=counts["link"],
        )
        for name, counts in closed.items()
    }


def _wait(directory: RunDirectory, trackers: Sequence[str], *, patience: float) -> None:
    """Wait until nothing is pending, or until no tracker took anything for ``patience``."""
    offsets: list[int] = []
    last_progress = time.monotonic()
    names = [name for name in trackers if name != NOTIFY]
    while time.monotonic() - last_progress < patience:
        now = [_cursor(directory, name).offset for name in names]
        messages = pending_messages(directory) if NOTIFY in trackers else {}
        if not messages and not any(_has_events(directory, offset) for offset in now):
            return
        now += messages.values()
        if now != offsets:
            offsets, last_progress = now, time.monotonic()
        time.sleep(_POLL_SECONDS)


def _file_of(directory: RunDirectory, name: str) -> str:
    """Return the name of the cursor's file of a tracker, or of a target of messages."""
    kind, dot, target = name.partition(".")
    if dot and kind == NOTIFY:
        return notify_cursor(directory, target).name
    return tracker_cursor(directory, name).name


def _cursor(directory: RunDirectory, tracker: str) -> Cursor:
    return Cursor(tracker_cursor(directory, tracker))


def _has_events(directory: RunDirectory, offset: int) -> bool:
    return next(read_events(directory.journal, offset), None) is not None
