"""The courier process: drives the trackers of one run from its journal, and its uploads.

It speaks JSON lines. To the training process on standard output: ``{"ready": true, "problems":
[...], "notices": [...]}`` once, ``{"error": ..., "tracker": ...}`` for failures of a tracker or,
as ``storage``, of storage, ``{"upload": {...}}`` whenever an upload's state changes, ``{"kept":
{...}}`` when a tracker's service was found to have a checkpoint, ``{"uploads": {...}}`` when
uploads are finished with, ``{"closed": {...}}`` at the end. From it on standard input:
``{"begin_uploads": true}``, ``{"watch_steps": true}``, ``{"finish_uploads": SECONDS}`` and
``{"close": SECONDS}``. The end of standard input means that the training process is gone: people
are told, and what there is is still delivered, within a bound and until somebody else trains the
run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, TextIO, cast

from llmforge.component import Component
from llmforge.courier.client import STORAGE
from llmforge.courier.cursor import tracker_cursor
from llmforge.courier.delivery import Delivery
from llmforge.courier.journal import JournalWriter
from llmforge.courier.lock import only_courier
from llmforge.courier.notifications import NOTIFY, Notifications, is_trial, notify_problems
from llmforge.courier.preflight import ask_trackers
from llmforge.courier.storage_thread import Uploads
from llmforge.courier.tracker_checkpoints import Keeping, counts_as_upload
from llmforge.errors import ForgeError, Problem
from llmforge.events import CheckpointUploaded, Event, RunStarted
from llmforge.plugins import build_manager, load
from llmforge.recipe import Override, Recipe, load_recipe
from llmforge.recipe.notify import NotifyTable
from llmforge.redaction import RedactingStream, redact_values
from llmforge.remote import recipe_remote
from llmforge.rundir import RunDirectory, read_record
from llmforge.rundir.context import run_context
from llmforge.rundir.lock import lock_holder
from llmforge.rundir.uploads import KeptCheckpoint, UploadRecord
from llmforge.stop_signals import stop_signals
from llmforge.streams import drain

ORPHAN_SECONDS = 20.0
"""How long a courier continues when the training process is gone, for uploads and then trackers."""
ORPHAN_MESSAGE_SECONDS = 180.0
"""How long it then tries to tell people, before it leaves that to ``forge runs sync``."""
MESSAGE_SECONDS = 15.0
"""How long the end of a run waits at most for messages to be sent."""
HANDOVER_SECONDS = 10.0
"""How long a courier waits for the one before it, which leaves when it sees the run trained."""
_WATCH_SECONDS = 0.5


class CourierProcess:
    """The trackers of a run, each behind its own thread and cursor.

    Args:
        directory: the run.
        output: where the training process reads.
        only: drive these trackers; the ones the recipe selects when empty.
    """

    def __init__(self, directory: RunDirectory, output: IO[str], *, only: Sequence[str]) -> None:
        self._directory = directory
        self._only = only
        self._output = output
        self._output_lock = threading.Lock()
        self._deliveries: list[Delivery] = []
        self._viewers: dict[str, str] = {}
        self._notifications: Notifications | None = None
        self._uploads: Uploads | None = None
        self._finishing: threading.Thread | None = None

    def start(self) -> None:
        """Load the trackers, ask each for its preflight, and begin to deliver when all is well."""
        trackers = [name for name in self._only if name != NOTIFY]
        chosen = [Override(("tracker", "names"), trackers, origin="--tracker")]
        recipe = load_recipe(self._directory.recipe, overrides=chosen if self._only else ())
        components = build_trackers(recipe)
        found = ask_trackers(
            components,
            run_context(self._directory, recipe),
            strict=recipe.tracker.on_error == "raise",
        )
        told = not self._only or NOTIFY in self._only
        notify = recipe.notify if told and not is_trial(self._directory.id) else NotifyTable()
        if problems := [*found.problems, *notify_problems(notify)]:
            self.tell(ready=False, problems=[_as_dict(problem) for problem in problems])
            return
        self._viewers = {
            tracker.name: tracker.viewer.format(directory=self._directory.trackers / tracker.name)
            for tracker in components
        }
        for component in components:
            self._deliveries.append(self._delivery(component, components, recipe))
        self._notifications = Notifications(
            self._directory,
            notify,
            on_error=lambda target, message: self.tell(tracker=target, error=message),
        )
        for delivery in self._deliveries:
            delivery.start()
        self._notifications.start()
        if recipe.storage.url is not None and not self._only:
            self._uploads = self._open_uploads(recipe)
        self.tell(ready=True, problems=[], notices=found.notices)

    def begin_uploads(self) -> None:
        """Begin to upload: it is known by now which checkpoints the run continues with."""
        if self._uploads is not None:
            self._uploads.start()

    def watch_steps(self) -> None:
        """Begin to notice when no step is taken: the run is set up by now."""
        if self._notifications is not None:
            self._notifications.watch_steps()

    def tell_of_crash(self) -> None:
        """Tell people that the training process is gone, if it is not as it should be."""
        if self._notifications is not None and not self._only:
            self._notifications.tell_of_crash()

    def await_messages(self, seconds: float) -> None:
        """Wait until all messages to people are sent, at most ``seconds``."""
        if self._notifications is not None:
            self._notifications.wait(seconds)

    def finish_uploads(self, seconds: float) -> None:
        """Begin to finish the uploads; report how far they are within ``seconds``."""
        if self._uploads is None or self._finishing is not None:
            return
        finish = partial(self._finish_uploads, self._uploads, seconds)
        self._finishing = threading.Thread(target=finish, name="finish-uploads", daemon=True)
        self._finishing.start()

    def await_uploads(self, seconds: float) -> None:
        """Wait for what :meth:`finish_uploads` began, at most ``seconds``."""
        if self._finishing is not None:
            self._finishing.join(seconds)

    def close(self, seconds: float) -> None:
        """Deliver the rest for at most ``seconds`` and tell what was delivered."""
        deadline = time.monotonic() + seconds
        for delivery in self._deliveries:
            delivery.close()
        for delivery in self._deliveries:
            delivery.join(max(0.0, deadline - time.monotonic()))
        closed: dict[str, Mapping[str, Any]] = {
            delivery.tracker.name: {
                "delivered": delivery.delivered,
                "pending": delivery.pending(),
                "link": delivery.link or self._viewers[delivery.tracker.name],
            }
            for delivery in self._deliveries
        }
        if self._notifications is not None:
            left = max(0.0, deadline - time.monotonic())
            closed |= self._notifications.close(min(MESSAGE_SECONDS, left))
        self.tell(closed=closed)

    def _append(self, event: Event) -> None:
        journal = JournalWriter(self._directory.journal, cut=False)
        journal.append(event)
        journal.close()

    def _delivery(
        self, component: Component, components: list[Component], recipe: Recipe
    ) -> Delivery:
        manager = build_manager(components)
        others = [other for other in components if other is not component]

        def call(hook: str, event: Event) -> None:
            if isinstance(event, RunStarted):  # the directory may have been moved since
                event = dataclasses.replace(event, directory=str(self._directory.path.absolute()))
            manager.subset_hook_caller(hook, remove_plugins=others)(event=event)

        keeping = Keeping(self._directory, component, on_kept=self._kept)
        return Delivery(
            component,
            call=call,
            journal=self._directory.journal,
            cursor=tracker_cursor(self._directory, component.name),
            on_error=lambda tracker, message: self.tell(tracker=tracker, error=message),
            on_arrival=keeping if counts_as_upload(recipe) else lambda _: None,
        )

    def _kept(self, kept: KeptCheckpoint) -> None:
        place = f"{kept.tracker}:{kept.address}"
        self._append(CheckpointUploaded(step=kept.step, url=place))
        self.tell(kept={"step": kept.step, "url": place})

    def _finish_uploads(self, uploads: Uploads, seconds: float) -> None:
        self.tell(uploads=dataclasses.asdict(uploads.finish(seconds)))

    def _open_uploads(self, recipe: Recipe) -> Uploads:
        directory = self._directory
        journal = JournalWriter(directory.journal, cut=False)

        def changed(record: UploadRecord) -> None:
            if record.state == "committed" and not record.cleaned:
                journal.append(CheckpointUploaded(step=record.step, url=record.url))
            self.tell(upload=dataclasses.asdict(record))

        return Uploads(
            directory,
            recipe_remote(recipe, directory.id, attempt=read_record(directory).attempt),
            recipe=recipe,
            on_change=changed,
            on_error=lambda message: self.tell(tracker=STORAGE, error=message),
        )

    def tell(self, **message: Any) -> None:
        """Send one message to the training process."""
        with self._output_lock:
            try:
                self._output.write(json.dumps(redact_values(message)) + "\n")
                self._output.flush()
            except OSError:
                # The training process is gone; the journal and cursors tell the next one.
                return


def build_trackers(recipe: Recipe) -> list[Component]:
    """Return an instance of every tracker the recipe selects."""
    return [
        load("tracker", selection.name)(selection.options)
        for selection in recipe.selections.get("tracker", ())
    ]


def main(arguments: list[str]) -> int:
    """Run the courier of a run until it is closed.

    Args:
        arguments: the run directory, then the trackers to drive if not all of them.
    """
    directory = RunDirectory(Path(arguments[0]))
    parent = os.getppid()
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group; the training process
    # decides when the courier ends.
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    sys.stderr = cast("TextIO", RedactingStream(sys.stderr))
    output, sys.stdout = sys.stdout, sys.stderr
    courier = CourierProcess(directory, output, only=arguments[1:])
    try:
        lock = only_courier(directory, wait=HANDOVER_SECONDS)
        courier.start()
    except ForgeError as error:
        courier.tell(ready=False, problems=[_as_dict(Problem(message=str(error)))])
        return error.exit_code
    with lock:
        seconds = _obey(courier)
        if seconds is None:
            courier.tell_of_crash()
            _leave_to_the_next(directory, before=parent)
            courier.finish_uploads(ORPHAN_SECONDS)
            courier.await_messages(ORPHAN_MESSAGE_SECONDS)
            courier.close(ORPHAN_SECONDS)
            courier.await_uploads(ORPHAN_SECONDS)
        else:
            courier.close(seconds)
    output.flush()
    drain()
    # A tracker's thread that hangs must not keep the process alive.
    os._exit(0)


def _obey(courier: CourierProcess) -> float | None:
    """Do what the training process asks until it says how long closing may take, or is gone."""
    for line in sys.stdin:
        message = json.loads(line) if line.endswith("\n") else {}
        if "begin_uploads" in message:
            courier.begin_uploads()
        elif "watch_steps" in message:
            courier.watch_steps()
        elif "finish_uploads" in message:
            courier.finish_uploads(float(message["finish_uploads"]))
        elif "close" in message:
            return float(message["close"])
    return None


def _leave_to_the_next(directory: RunDirectory, *, before: int) -> None:
    """End this process as soon as another one trains the run: its courier does the rest.

    That is no worse than a kill, which everything here has to survive anyway.
    """

    def watch() -> None:
        # A process that is being killed may close what leads here before it gives up its lock.
        while lock_holder(directory.root, directory.id) in (None, before):
            time.sleep(_WATCH_SECONDS)
        os._exit(0)

    threading.Thread(target=watch, name="await-successor", daemon=True).start()


def _as_dict(problem: Problem) -> dict[str, str]:
    return {
        "message": problem.message,
        "key": problem.key,
        "where": problem.where,
        "remedy": problem.remedy,
    }
