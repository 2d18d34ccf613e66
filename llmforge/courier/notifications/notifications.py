"""The people a run's recipe wants told, from the courier's start to its end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from llmforge.courier.journal import JournalWriter
from llmforge.courier.notifications.alerts import StallWatch, alert
from llmforge.courier.notifications.delivery import Notifier
from llmforge.courier.notifications.targets import senders
from llmforge.errors import RunError
from llmforge.progress import duration
from llmforge.recipe.notify import NotifyTable, parse_duration
from llmforge.rundir import RunDirectory, read_record
from llmforge.rundir.record import HEARTBEAT_SECONDS

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


class Notifications:
    """Sends the alerts in a run's journal, and adds those that only the courier can.

    Args:
        directory: the run.
        notify: its ``[notify]`` table.
        on_error: told the name of a target and the message of a failure.
    """

    def __init__(
        self, directory: RunDirectory, notify: NotifyTable, *, on_error: Callable[[str, str], None]
    ) -> None:
        self._directory = directory
        self._notify = notify
        self._notifiers = [
            Notifier(directory, name, send=send, on_error=on_error)
            for name, send in senders(notify).items()
        ]
        # The record has the step of the last heartbeat, so less would be no stall.
        after = max(parse_duration(notify.stall_after), 2 * HEARTBEAT_SECONDS)
        self._stalls = StallWatch(directory, after=after, on_stall=self._stalled)

    def start(self) -> None:
        """Begin to send."""
        for notifier in self._notifiers:
            notifier.start()

    def watch_steps(self) -> None:
        """Begin to notice when no step is taken: the run is set up by now."""
        if self._wanted("stall") and self._stalls.ident is None:
            self._stalls.start()

    def tell_of_crash(self) -> None:
        """Tell people that the training process is gone, unless it ended as it should."""
        if not self._wanted("failure"):
            return
        with contextlib.suppress(RunError):  # a damaged record does not say that it was running
            if read_record(self._directory).state == "running":
                self._append("failure", state="crashed")

    def wait(self, seconds: float) -> None:
        """Wait until all messages are sent, at most ``seconds``."""
        deadline = time.monotonic() + seconds
        while any(item.pending() for item in self._notifiers) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def close(self, seconds: float) -> Mapping[str, Mapping[str, Any]]:
        """Send the rest for at most ``seconds``; return by target what was sent and what was not.

        A failing target is tried again until then: the end of a run is what people wait for.
        """
        self._stalls.close()
        self.wait(seconds)
        for notifier in self._notifiers:
            notifier.close()
        return {
            item.tracker.name: {"delivered": item.delivered, "pending": item.pending(), "link": ""}
            for item in self._notifiers
        }

    def _wanted(self, occasion: str) -> bool:
        return bool(self._notifiers) and occasion in self._notify.on

    def _stalled(self, step: int, seconds: float) -> None:
        reason = f"no step was taken for {duration(seconds)}; its process is alive"
        self._append("stall", state="stalled", reason=reason, once=str(step))

    def _append(self, occasion: str, **about: str) -> None:
        try:
            journal = JournalWriter(self._directory.journal, cut=False)
            journal.append(alert(self._directory, occasion, **about))
            journal.close()
        except OSError as error:
            log.warning("nobody is told that the run has %s: %s", about["state"], error)
