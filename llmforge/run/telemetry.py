"""Everything a run writes as it goes: rows, events for callbacks and the courier, the log file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pluggy

from llmforge.courier import Courier, JournalWriter
from llmforge.errors import PluginError, Problem
from llmforge.events import Event
from llmforge.plugins import Notifier
from llmforge.recipe import Recipe
from llmforge.run.metrics import LossHistory, RowFile, cut_rows, read_rows
from llmforge.rundir import Recorder, RunDirectory

log = logging.getLogger("llmforge.run")

INTERRUPTED_CLOSE_SECONDS = 3.0


class Telemetry:
    """The outgoing side of a run.

    Args:
        directory: the run.
        recipe: its recipe, which names the trackers.
        manager: callbacks are registered in it.
        recorder: gets the newest values for ``run.json``.
    """

    def __init__(
        self,
        directory: RunDirectory,
        recipe: Recipe,
        *,
        manager: pluggy.PluginManager,
        recorder: Recorder,
    ) -> None:
        self._directory = directory
        self._recipe = recipe
        self._recorder = recorder
        self._notify = Notifier(manager, self._callback_failed)
        self._journal = JournalWriter(directory.journal)
        self._rows: RowFile | None = None
        self._timing: RowFile | None = None
        self._tracker_failure: str | None = None
        self.history = LossHistory()
        self.compute_seconds = 0.0
        trackers = recipe.selections.get("tracker", ())
        self.courier = Courier(directory, on_error=self._tracker_failed) if trackers else None

    def tracker_problems(self) -> list[Problem]:
        """Wait for the trackers' preflight and return what is wrong."""
        return self.courier.problems() if self.courier else []

    def begin(self, step: int, row: Mapping[str, Any] | None) -> None:
        """Open the row files at ``step``; later rows of an earlier start are cut off.

        ``row`` is the row of ``step`` itself, which may or may not have reached the file.
        """
        cut_rows(self._directory.metrics, from_step=step)
        cut_rows(self._directory.samples, from_step=step + 1)
        for earlier in read_rows(self._directory.metrics):
            self.history.add(earlier)
        self._rows = RowFile(self._directory.metrics)
        self._timing = RowFile(self._directory.timing)
        if row is not None:
            self._rows.append(row)
            self.history.add(row)

    def row(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Append a step's rows."""
        assert self._rows is not None
        assert self._timing is not None
        self._rows.append(row)
        self._timing.append(timing)
        self.history.add(row)
        share = timing.get("compute_share", 0.0) + timing.get("data_share", 0.0)
        self.compute_seconds += timing["seconds"] * share
        values = {name: value for name, value in row.items() if isinstance(value, int | float)}
        self._recorder.record.metrics = {**self._recorder.record.metrics, **values}

    def event(self, event: Event) -> None:
        """Give ``event`` to the callbacks and to the journal.

        Raises:
            PluginError: a tracker failed and the recipe asks for that to stop the run.
        """
        self._journal.append(event)
        self._notify(event.hook, event=event)

    def raise_tracker_failure(self) -> None:
        """Stop the run for a failed tracker when ``tracker.on_error`` is ``raise``.

        Raises:
            PluginError: a tracker failed.
        """
        if self._tracker_failure is not None and self._recipe.tracker.on_error == "raise":
            raise PluginError(
                self._tracker_failure,
                remedy='the run is saved; set tracker.on_error = "warn" to go on without it',
            )

    def close(self, *, interrupted: bool) -> None:
        """Let the trackers deliver the rest within their bound, and say what was not delivered."""
        self._journal.close()
        for file in (self._rows, self._timing):
            if file is not None:
                file.close()
        if self.courier is None:
            return
        bound = self._recipe.tracker.close_timeout
        delivered = self.courier.close(
            min(bound, INTERRUPTED_CLOSE_SECONDS) if interrupted else bound
        )
        if not delivered:
            log.warning("the trackers did not answer; what they lack stays in the journal")
        for tracker, counts in delivered.items():
            if counts["pending"]:
                log.warning(
                    "tracker %s: %d events delivered, %d still in the journal",
                    tracker,
                    counts["delivered"],
                    counts["pending"],
                )
            else:
                log.debug("tracker %s: %d events delivered", tracker, counts["delivered"])

    def _tracker_failed(self, tracker: str, message: str) -> None:
        text = f"tracker {tracker} failed: {message}; its events wait in the journal"
        self._tracker_failure = text
        log.warning(text)

    def _callback_failed(self, name: str, hook: str, error: Exception) -> None:
        log.warning("%s failed in %s: %s: %s", name, hook, type(error).__name__, error)


@contextlib.contextmanager
def log_to(path: Path, level: str) -> Iterator[None]:
    """Write llmforge's log lines to ``path`` too, while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(level.upper())
    logger = logging.getLogger("llmforge")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(before or logging.WARNING, handler.level))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()
