"""Uploading a run's checkpoints, one after the other, until storage has committed each.

What is to be done is read from the disk every time: the sound checkpoints there, less those whose
upload record says that they are committed. So nothing a kill can interrupt is needed to continue.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import cast

from llmforge.checkpoint import Checkpoint, list_checkpoints
from llmforge.courier.small_files import run_files
from llmforge.courier.upload_queue import (
    DONE,
    checkpoint_url,
    fingerprint,
    new_record,
    pending_uploads,
    record_of,
    settle_superseded,
)
from llmforge.errors import CheckpointError, CommitConflict, ForgeError
from llmforge.progress import track
from llmforge.remote import RemoteRun, new_token
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord, UploadState, read_uploads, write_upload

POLL_SECONDS = 0.5
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
LAST_RETRY_SECONDS = 5.0
"""The longest pause while the run waits for the rest."""
_RECORD_SECONDS = 1.0
_FINAL = (CheckpointError, CommitConflict)
"""Failures that every further try would meet again."""


class Uploader(threading.Thread):
    """Uploads what is not in storage yet: what was started, then the newest checkpoint, the best.

    One that fails lets the others go first.

    Args:
        directory: the run.
        remote: its place in storage.
        archive: ``none``, ``tar.gz`` or ``tar.zst``.
        on_change: told a record whenever its state changes; called from this thread.
        on_error: told what else went wrong, once per distinct message.
        only: upload these steps and no others; all when None.
    """

    def __init__(
        self,
        directory: RunDirectory,
        remote: RemoteRun,
        *,
        archive: str,
        on_change: Callable[[UploadRecord], None],
        on_error: Callable[[str], None],
        only: frozenset[int] | None = None,
    ) -> None:
        super().__init__(name="upload-checkpoints", daemon=True)
        self._directory = directory
        self._remote = remote
        self._archive = archive
        self._on_change = on_change
        self._on_error = on_error
        self._only = only
        self._reported: set[str] = set()
        self._in_a_row = 0
        self._failures: dict[str, int] = {}
        self._given_up: set[str] = set()
        self._not_cleared: set[str] = set()
        self._first_look = self._last_look = False
        self._closing = threading.Event()
        self._wake = threading.Event()

    def close(self) -> None:
        """Ask the thread to end once nothing is left to try; :meth:`join` waits for it."""
        self._closing.set()
        self._wake.set()

    def pending(self) -> list[int]:
        """Return the steps still to be uploaded."""
        return sorted(item.step for item in self._waiting())

    def run(self) -> None:
        """Upload until closed and nothing is left to try."""
        while True:
            closing = self._closing.is_set()
            try:
                busy = self._work(closing=closing)
            except Exception as error:  # the disk or a storage may raise anything; it is reported
                self._report(error)
                self._pause(FIRST_RETRY_SECONDS)
                busy = True
            if closing and not busy:
                return

    def _work(self, *, closing: bool) -> bool:
        """Do the next thing; False when there is none."""
        settle_superseded(self._directory, on_change=self._on_change)
        if not self._first_look and not closing:
            self._first_look = True
            self._compare()
        waiting = [item for item in self._waiting() if _name(item) not in self._given_up]
        if waiting:
            self._queue(waiting)
            self._upload(min(waiting, key=lambda item: self._failures.get(_name(item), 0)))
            return True
        if self._clear_one():
            return True
        if closing and not self._last_look:
            self._last_look = True
            self._compare()
            return True
        if not closing:
            self._pause(POLL_SECONDS)
        return False

    def _waiting(self) -> list[Checkpoint]:
        found = pending_uploads(self._directory, self._remote.url)
        return [item for item in found if self._only is None or item.step in self._only]

    def _compare(self) -> None:
        """Queue again what was committed and is not in storage any more."""
        known = read_uploads(self._directory)
        for checkpoint in list_checkpoints(self._directory.checkpoints):
            record = record_of(known, checkpoint, self._remote.url)
            if record is None or record.state != "committed":
                continue
            if self._remote.commit(record.step) is None:
                record.state, record.token, record.sent = "queued", "", 0
                record.error = "storage does not have it any more"
                self._tell(record)

    def _queue(self, waiting: list[Checkpoint]) -> None:
        known = read_uploads(self._directory)
        for checkpoint in waiting:
            if record_of(known, checkpoint, self._remote.url) is None:
                self._tell(new_record(known, checkpoint, self._remote.url))

    def _upload(self, checkpoint: Checkpoint) -> None:
        known, place = read_uploads(self._directory), self._remote.url
        record = record_of(known, checkpoint, place) or new_record(known, checkpoint, place)
        # The token is on the disk before anything is sent under it, so that a later try finds
        # what this one has left.
        record.token = record.token or new_token()
        record.tries += 1
        record.sent, record.error, record.final = 0, "", False
        self._write(record)
        began = written = time.monotonic()

        def on_state(state: str, sent: int, size: int) -> None:
            nonlocal written
            if state == "committed":
                return  # told below, once it is known where
            now = time.monotonic()
            changed = state != record.state
            if changed:
                task.restart(f"{state} step {record.step}", total=size)
            task.done = sent
            record.state, record.sent, record.size = cast("UploadState", state), sent, size
            record.seconds = round(now - began, 3)
            if changed:
                self._tell(record)
            elif now - written > _RECORD_SECONDS:
                self._write(record)
                written = now

        try:
            with track(f"uploading step {record.step}") as task:
                commit = self._remote.upload(
                    checkpoint.path,
                    token=record.token,
                    archive=self._archive,
                    run_files=run_files(self._directory),
                    on_state=on_state,
                )
        except Exception as error:  # a storage may raise anything; it is reported and tried again
            self._failed(record, checkpoint, error)
            return
        self._in_a_row = 0
        record.state, record.token = "committed", commit.token
        record.sent = record.size = commit.size
        record.seconds = round(time.monotonic() - began, 3)
        self._tell(record)

    def _failed(self, record: UploadRecord, checkpoint: Checkpoint, error: Exception) -> None:
        if not checkpoint.path.exists():
            return  # retention deleted it meanwhile: the next look cancels it
        record.state = "failed"
        record.error = _text(error)
        record.final = isinstance(error, _FINAL)
        self._tell(record)
        name = _name(checkpoint)
        self._failures[name] = self._failures.get(name, 0) + 1
        if record.final:
            self._given_up.add(name)
            return
        self._in_a_row += 1
        longest = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** (self._in_a_row - 1))
        self._pause(longest * random.uniform(0.5, 1.0))

    def _clear_one(self) -> bool:
        """Remove from storage what an upload that was given up left there; False when none is."""
        for record in read_uploads(self._directory).values():
            if record.url != checkpoint_url(self._remote.url, record.step):
                continue
            for token in record.leftovers:
                if token in self._not_cleared:
                    continue
                self._not_cleared.add(token)  # not tried twice by one process
                self._remote.discard(record.step, token)
                record.leftovers.remove(token)
                write_upload(self._directory, record)
                return True
        return False

    def _report(self, error: Exception) -> None:
        text = _text(error)
        if text not in self._reported:
            self._reported.add(text)
            self._on_error(text)

    def _tell(self, record: UploadRecord) -> None:
        self._write(record)
        self._on_change(record)

    def _write(self, record: UploadRecord) -> None:
        record.updated = time.time()
        write_upload(self._directory, record, durable=record.state in DONE or record.tries == 1)

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        if self._closing.is_set():
            time.sleep(min(seconds, LAST_RETRY_SECONDS))  # no busy loop against a dead server
        else:
            self._wake.clear()


def _name(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.step} {fingerprint(checkpoint)}"


def _text(error: Exception) -> str:
    return error.message if isinstance(error, ForgeError) else repr(error)
