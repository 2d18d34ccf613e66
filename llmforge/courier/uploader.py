"""Uploading a run's checkpoints, one after the other, until storage has committed each.

What is to be done is read from the disk every time: the sound checkpoints there, less those whose
upload record says that they are committed. So nothing a kill can interrupt is needed to go on.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import cast

from llmforge.checkpoint import Checkpoint, list_checkpoints
from llmforge.courier.mirror import run_files
from llmforge.errors import ForgeError
from llmforge.remote import RemoteRun, new_token
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord, UploadState, read_uploads, write_upload

POLL_SECONDS = 0.5
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
_RECORD_SECONDS = 1.0
_DONE: tuple[UploadState, ...] = ("committed", "cancelled")


class Uploader(threading.Thread):
    """Uploads what is not in storage yet, the newest checkpoint first, then the best.

    Args:
        directory: the run.
        remote: its place in storage.
        archive: ``none``, ``tar.gz`` or ``tar.zst``.
        on_change: told a record whenever its state changes; called from this thread.
        only: upload these steps and no others; all when None.
    """

    def __init__(
        self,
        directory: RunDirectory,
        remote: RemoteRun,
        *,
        archive: str,
        on_change: Callable[[UploadRecord], None],
        only: frozenset[int] | None = None,
    ) -> None:
        super().__init__(name="upload-checkpoints", daemon=True)
        self._directory = directory
        self._remote = remote
        self._archive = archive
        self._on_change = on_change
        self._only = only
        self._failures = 0
        self._closing = threading.Event()
        self._wake = threading.Event()

    def close(self) -> None:
        """Ask the thread to end once nothing is left; :meth:`join` waits for it."""
        self._closing.set()
        self._wake.set()

    def pending(self) -> list[int]:
        """Return the steps still to be uploaded."""
        return [item.step for item in pending_uploads(self._directory) if self._wanted(item.step)]

    def run(self) -> None:
        """Upload until closed and nothing is left."""
        while True:
            closing = self._closing.is_set()
            settle_superseded(self._directory, on_change=self._on_change)
            waiting = [item for item in pending_uploads(self._directory) if self._wanted(item.step)]
            if waiting:
                self._queue(waiting)
                self._upload(waiting[0])
            elif closing:
                return
            else:
                self._pause(POLL_SECONDS)

    def _wanted(self, step: int) -> bool:
        return self._only is None or step in self._only

    def _queue(self, waiting: list[Checkpoint]) -> None:
        known = read_uploads(self._directory)
        for checkpoint in waiting:
            if _record_of(known, checkpoint) is None:
                self._tell(_new_record(checkpoint))

    def _upload(self, checkpoint: Checkpoint) -> None:
        record = _record_of(read_uploads(self._directory), checkpoint) or _new_record(checkpoint)
        # The token is on the disk before anything is sent under it, so that a later try finds
        # what this one has left.
        record.token = record.token or new_token()
        record.tries += 1
        record.sent, record.error = 0, ""
        self._write(record)
        began = written = time.monotonic()

        def on_state(state: str, sent: int, size: int) -> None:
            nonlocal written
            if state == "committed":
                return  # told below, once it is known where
            now = time.monotonic()
            changed = state != record.state
            record.state, record.sent, record.size = cast("UploadState", state), sent, size
            record.seconds = round(now - began, 3)
            if changed:
                self._tell(record)
            elif now - written > _RECORD_SECONDS:
                self._write(record)
                written = now

        try:
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
        self._failures = 0
        record.state, record.token = "committed", commit.token
        record.url = f"{self._remote.url}/checkpoints/{checkpoint.path.name}"
        record.sent = record.size = commit.size
        record.seconds = round(time.monotonic() - began, 3)
        self._tell(record)

    def _failed(self, record: UploadRecord, checkpoint: Checkpoint, error: Exception) -> None:
        if not checkpoint.path.exists():
            return  # retention deleted it meanwhile: the next look cancels it
        record.state = "failed"
        record.error = error.message if isinstance(error, ForgeError) else repr(error)
        self._tell(record)
        self._failures += 1
        longest = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** (self._failures - 1))
        self._pause(longest * random.uniform(0.5, 1.0))

    def _tell(self, record: UploadRecord) -> None:
        self._write(record)
        self._on_change(record)

    def _write(self, record: UploadRecord) -> None:
        record.updated = time.time()
        write_upload(self._directory, record, durable=record.state in _DONE or record.tries == 1)

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        if self._closing.is_set():
            time.sleep(min(seconds, POLL_SECONDS))  # still no busy loop against a dead server
        else:
            self._wake.clear()


def pending_uploads(directory: RunDirectory) -> list[Checkpoint]:
    """Return the checkpoints that are not in storage, in the order they are to be uploaded."""
    known = read_uploads(directory)
    waiting = []
    for checkpoint in list_checkpoints(directory.checkpoints):
        record = _record_of(known, checkpoint)
        if record is None or record.state not in _DONE:
            waiting.append(checkpoint)
    best = max((item.step for item in waiting if item.is_best), default=None)
    newest = max((item.step for item in waiting), default=None)
    return sorted(
        waiting, key=lambda item: (item.step == newest, item.step == best, item.step), reverse=True
    )


def committed_uploads(directory: RunDirectory) -> set[int]:
    """Return the steps whose checkpoint here is in storage, verified."""
    known = read_uploads(directory)
    here = list_checkpoints(directory.checkpoints)
    records = ((item.step, _record_of(known, item)) for item in here)
    return {step for step, record in records if record and record.state == "committed"}


def settle_superseded(
    directory: RunDirectory, *, on_change: Callable[[UploadRecord], None]
) -> None:
    """Mark what became of uploads whose checkpoint is no longer here: cleaned, or cancelled."""
    here = {checkpoint.step for checkpoint in list_checkpoints(directory.checkpoints)}
    for record in read_uploads(directory).values():
        if record.step in here or record.cleaned or record.state == "cancelled":
            continue
        if record.state == "committed":
            record.cleaned = True
        else:
            record.state = "cancelled"
        record.updated = time.time()
        write_upload(directory, record)
        on_change(record)


def _record_of(known: Mapping[int, UploadRecord], checkpoint: Checkpoint) -> UploadRecord | None:
    """Return the record of exactly this checkpoint, not of an earlier one of the same step."""
    record = known.get(checkpoint.step)
    return record if record and record.created == checkpoint.manifest.created else None


def _new_record(checkpoint: Checkpoint) -> UploadRecord:
    return UploadRecord(
        step=checkpoint.step, created=checkpoint.manifest.created, size=checkpoint.manifest.size
    )
