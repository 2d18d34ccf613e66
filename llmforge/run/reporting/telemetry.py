"""Everything a run writes as it goes: rows, events for callbacks and the courier, the log file."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pluggy

from llmforge.courier import COURIER, STORAGE, Courier, JournalWriter, cut_torn_line
from llmforge.courier.notifications import NOTIFY, alert, is_trial
from llmforge.courier.tracker_checkpoints import counts_as_upload, kept_elsewhere
from llmforge.errors import ForgeError, PluginError, Problem
from llmforge.events import (
    CheckpointUploaded,
    EvaluationEnded,
    Event,
    MetricsLogged,
    RunFailed,
    RunStarted,
)
from llmforge.plugins import Notifier
from llmforge.progress import track
from llmforge.recipe import Recipe
from llmforge.recipe.notify import URL_VARIABLE
from llmforge.redaction import RedactingFormatter
from llmforge.remote import recipe_remote
from llmforge.run.reporting.metrics_files import LossHistory, RowFile, cut_rows, read_rows
from llmforge.run.reporting.upload_status import UploadWatch
from llmforge.run.signals import StopNow
from llmforge.run_root import root_option
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

    Attributes:
        uploads: hears of the uploads; None when the recipe has no storage.
        uploads_started: whether there can be any yet.
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
        self._in_order = threading.Lock()
        self._rows: RowFile | None = None
        self._timing: RowFile | None = None
        self._tracker_failure: str | None = None
        self._announced = self._ready = False
        trial = is_trial(directory.id)
        self._occasions = recipe.notify.on if recipe.notify.targets and not trial else []
        self.uploads_started = False
        self.history = LossHistory()
        self.compute_seconds = 0.0
        self.uploads = (
            UploadWatch(
                directory,
                recipe.storage,
                place=recipe_remote(recipe, directory.id, attempt=recorder.record.attempt).url,
                on_committed=self._checkpoint_uploaded,
            )
            if recipe.storage.url is not None
            else None
        )
        self.courier = self._start_courier()

    def _start_courier(self) -> Courier | None:
        tracked = bool(self._recipe.selections.get("tracker"))
        if self.uploads is None and not tracked and not self._occasions:
            return None
        webhook = self._recipe.notify.webhook
        address = webhook.url if webhook is not None else None
        return Courier(
            self._directory,
            on_error=self._courier_failed,
            on_upload=self.uploads or (lambda _: None),
            on_kept=self._checkpoint_kept,
            variables={} if address is None else {URL_VARIABLE: address},
        )

    def tracker_problems(self) -> list[Problem]:
        """Wait for the trackers' preflight and return what is wrong."""
        problems = self.courier.problems() if self.courier else []
        self._ready = not problems
        return problems

    def tracker_notices(self) -> Sequence[str]:
        """Return what the trackers' preflight wants the user to know; after the problems."""
        return self.courier.notices if self.courier else ()

    def begin(self, step: int, row: Mapping[str, Any] | None) -> None:
        """Open the row files at ``step``; later rows of an earlier start are cut off.

        ``row`` is the row of ``step`` itself, which may or may not have reached the file.
        """
        cut_rows(self._directory.metrics, from_step=step)
        cut_rows(self._directory.samples, from_step=step + 1)
        cut_torn_line(self._directory.timing)
        cut_torn_line(self._directory.system)
        # run.json may be older than the checkpoint: it is written every few seconds only
        for earlier in read_rows(self._directory.metrics):
            self._remember(earlier)
        self._rows = RowFile(self._directory.metrics)
        self._timing = RowFile(self._directory.timing)
        if row is not None:
            self._rows.append(row)
            self._remember(row)
        if self.courier is not None and self._occasions:
            self.courier.watch_steps()

    def row(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Append a step's rows."""
        assert self._rows is not None
        assert self._timing is not None
        self._rows.append(row)
        self._timing.append(timing)
        self._remember(row)
        share = timing.get("compute_share", 0.0) + timing.get("data_share", 0.0)
        self.compute_seconds += timing["seconds"] * share

    def _remember(self, row: Mapping[str, Any]) -> None:
        """Keep a row's values for the history of checkpoints, and as the newest of the record."""
        self.history.add(row)
        values = {name: value for name, value in row.items() if isinstance(value, int | float)}
        self._recorder.record.metrics = {**self._recorder.record.metrics, **values}

    def sync_rows(self) -> None:
        """Force the metrics rows to the disk; for the checkpoint's thread."""
        if self._rows is not None:
            self._rows.sync()

    def event(self, event: Event) -> None:
        """Give ``event`` to the callbacks and to the journal."""
        self._announced = self._announced or isinstance(event, RunStarted)
        if isinstance(event, EvaluationEnded) and event.is_best:
            metric = self._recipe.early_stopping.metric
            best = {"metric": metric, "value": event.values[metric], "step": event.step}
            self._recorder.record.metrics = {**self._recorder.record.metrics, "best": best}
            self._recorder.beat_soon()
        with self._in_order:
            self._journal.append(event)
        self._notify(event.hook, event=event)

    def measured(self, make: Callable[[int], MetricsLogged | None]) -> None:
        """Give what ``make`` returns for the current step to the trackers; any thread may call it.

        Nothing of a later step gets into the journal in between: some trackers take no value of
        an earlier step. Callbacks are not told: how often the clock strikes must not decide what
        they add to a run.
        """
        with self._in_order:
            event = make(self._recorder.step)
            if event is not None:
                self._journal.append(event)

    def ended(self, *events: Event, failure: str | None = None) -> None:
        """Tell how this start ended, if it was ever announced; a full disk may swallow that."""
        if not self._announced:
            return
        try:
            if failure is not None:
                self.event(RunFailed(step=self._recorder.step, message=failure))
            for event in events:
                self.event(event)
        except OSError as error:
            log.warning("the trackers do not know how the run ended: %s", error)

    def alert(self, occasion: str, *, state: str, reason: str) -> None:
        """Have people told how this start ended, if the recipe wants it; its record says so now.

        What preflight found is not worth a message: whoever started the run is there.
        """
        if occasion not in self._occasions or not self._ready:
            return
        try:
            with self._in_order:
                self._journal.append(alert(self._directory, occasion, state=state, reason=reason))
        except OSError as error:
            log.warning("nobody is told how the run ended: %s", error)

    def failure(self) -> ForgeError | None:
        """Return the error of a tracker or of storage when its ``on_error`` ends the run."""
        return self._failed_tracker() or (self.uploads.failure() if self.uploads else None)

    def begin_uploads(self) -> None:
        """Let uploads begin; only once it is settled which checkpoint the run resumes from."""
        if self.uploads is not None and self.courier is not None:
            self.uploads_started = True
            self.courier.begin_uploads()

    def finish_uploads(self, seconds: float) -> None:
        """Let uploads arrive for at most ``seconds``, and say what did not.

        A signal ends the waiting; what is left is in the run directory for the next start.
        """
        if self.courier is None or not self.uploads_started:
            return
        go_on = f"forge uploads push-all {self._directory.id}{root_option(self._directory.root)}"
        try:
            with track("uploading") as task:
                look = partial(self.uploads.count, task) if self.uploads else lambda: None
                found = self.courier.finish_uploads(seconds, waiting=look)
        except StopNow:
            log.warning("uploads continue with the next start, or: %s", go_on)
            return
        if found is None:
            log.warning("the courier did not say what was uploaded; to continue: %s", go_on)
        elif found["pending"]:
            steps = ", ".join(str(step) for step in found["pending"])
            log.warning("not in storage yet: step %s; to continue: %s", steps, go_on)
        elif not found["mirrored"]:
            log.warning("not all small files of the run are in storage; to continue: %s", go_on)
        else:
            log.info("storage: everything is in %s", found["url"])

    def _failed_tracker(self) -> PluginError | None:
        if self._tracker_failure is None or self._recipe.tracker.on_error != "raise":
            return None
        return PluginError(
            self._tracker_failure,
            remedy='the run is saved; set tracker.on_error = "warn" to continue without it',
        )

    def abandon(self) -> None:
        """End the courier now; what the trackers lack stays in the journal for the next start."""
        if self.courier is not None:
            self.courier.kill()

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
        if delivered is None:
            log.warning("the courier did not answer; what the trackers lack stays in the journal")
            return
        for tracker, counts in delivered.items():
            if tracker.startswith(f"{NOTIFY}."):
                self._report_messages(tracker, counts["pending"])
                continue
            text = f"tracker {tracker}: {counts['delivered']:,} events delivered"
            where = f": {counts['link']}" if counts["link"] else ""
            if counts["pending"]:
                log.warning(
                    "%s, %d still in the journal%s; 'forge runs sync %s' or the next start "
                    "delivers them",
                    text,
                    counts["pending"],
                    where,
                    self._directory.id,
                )
            elif self._announced:  # else there was nothing to deliver, nor to look at
                log.info("%s%s", text, where)

    def _report_messages(self, target: str, pending: int) -> None:
        if pending:
            run = f"{self._directory.id}{root_option(self._directory.root)}"
            log.warning(
                "%s: %d not sent yet; 'forge runs sync %s' or the next start sends it",
                target,
                pending,
                run,
            )

    def _checkpoint_uploaded(self, step: int, url: str) -> None:
        # The courier has written the event to the journal itself; callbacks are called here.
        event = CheckpointUploaded(step=step, url=url)
        self._notify(event.hook, event=event)

    def _checkpoint_kept(self, step: int, url: str) -> None:
        log.info("step %d is in %s, read back and verified", step, url)
        self._checkpoint_uploaded(step, url)

    def elsewhere(self) -> Collection[int]:
        """Return the steps whose checkpoint is safe in another place and need not stay here."""
        if self.uploads is not None:
            return self.uploads.elsewhere()
        return kept_elsewhere(self._directory) if counts_as_upload(self._recipe) else ()

    def _courier_failed(self, tracker: str, message: str) -> None:
        if tracker == STORAGE:
            log.warning("storage: %s; trying again", message)
            if self.uploads is not None:
                self.uploads.failed(message)
            return
        if tracker == COURIER:
            log.warning("the courier, which delivers and uploads: %s", message)
            return
        if tracker.startswith(f"{NOTIFY}."):
            log.warning("%s failed: %s; trying again", tracker, message)
            return
        text = f"tracker {tracker} failed: {message}; its events wait in the journal"
        self._tracker_failure = text
        log.warning(text)

    def _callback_failed(self, name: str, hook: str, error: Exception) -> None:
        log.warning("%s failed in %s: %s: %s", name, hook, type(error).__name__, error)


@contextlib.contextmanager
def log_to(path: Path, level: str) -> Iterator[None]:
    """Write llmforge's log lines to ``path`` too, while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(message)s"))
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
        with contextlib.suppress(OSError):
            handler.close()


class _LogFile(logging.FileHandler):
    """A log file that a full disk makes incomplete, and not a traceback for every line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
