"""The training process's view of its uploads: a line per state, and what retention must know."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from llmforge.checkpoint import size_text
from llmforge.courier import BEGUN, committed_uploads, pending_uploads
from llmforge.errors import StorageError
from llmforge.progress import Task
from llmforge.recipe.schema import StorageKeys
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord, read_uploads

log = logging.getLogger("llmforge.run")

GRACE_SECONDS = 30.0
_POLL_SECONDS = 0.2


class UploadWatch:
    """Hears of every change of an upload from the courier.

    Args:
        directory: the run.
        keys: its ``[storage]`` table.
        place: its URL in storage.
        on_committed: told the step and URL of a checkpoint that is safe in storage.
    """

    def __init__(
        self,
        directory: RunDirectory,
        keys: StorageKeys,
        *,
        place: str,
        on_committed: Callable[[int, str], None],
    ) -> None:
        self._directory = directory
        self._place = place
        self._keys = keys
        self._on_committed = on_committed
        self._changed = threading.Condition()
        self._committed: set[int] = set()
        self._hopeless: set[int] = set()
        self._sizes: dict[int, int] = {}
        self._failure = ""
        self._reported = ""

    def __call__(self, record: UploadRecord) -> None:
        """Take an upload's new state; called from the courier's thread."""
        line = f"upload of step {record.step}: {upload_text(record)}"
        log.log(self._level(record), line)
        with self._changed:
            if record.state == "failed":
                self._failure = line
                self._reported = record.error
                self._hopeless |= {record.step} if record.final else set()
            elif record.state == "committed" and not record.cleaned:
                self._failure = ""
                self._committed.add(record.step)
            self._changed.notify_all()
        if record.state == "committed" and not record.cleaned:
            self._on_committed(record.step, record.url)

    def failed(self, message: str) -> None:
        """Take note of a failure of storage that is not of one checkpoint's upload."""
        with self._changed:
            self._failure = f"storage: {message}"
            self._changed.notify_all()

    def _level(self, record: UploadRecord) -> int:
        """Return how loud a state is: an outage is reported once and not with every try."""
        if record.state == "failed":
            return logging.DEBUG if record.error == self._reported else logging.WARNING
        again = record.tries > 1 and record.state in BEGUN
        return logging.DEBUG if again else logging.INFO

    def failure(self) -> StorageError | None:
        """Return a failed upload's error when ``storage.on_error`` says that it ends the run."""
        if not self._failure or self._keys.on_error != "raise":
            return None
        return StorageError(
            self._failure,
            remedy='the run is saved here; set storage.on_error = "warn" to train without storage',
        )

    def wait_for(self, step: int, *, stop: Callable[[], bool]) -> None:
        """Wait until the checkpoint of ``step`` is committed, as ``background = false`` asks.

        Returns all the same when ``stop`` says so, when the upload cannot succeed, or after
        ``storage.close_timeout`` seconds; the upload continues then.
        """
        deadline = time.monotonic() + self._keys.close_timeout
        with self._changed:
            while not self._is_settled(step) and not stop():
                if time.monotonic() > deadline:
                    log.warning(
                        "step %d is not in storage after %g s; continuing, and so does its upload",
                        step,
                        self._keys.close_timeout,
                    )
                    return
                self._changed.wait(_POLL_SECONDS)

    def _is_settled(self, step: int) -> bool:
        return step in self._committed | self._hopeless or self.failure() is not None

    def count(self, task: Task) -> None:
        """Bring up to date how much of what was waiting for its upload is in storage."""
        known = read_uploads(self._directory)
        for checkpoint in pending_uploads(self._directory, self._place):
            files = checkpoint.manifest.files.values()
            self._sizes[checkpoint.step] = sum(entry.size for entry in files)
        task.total = sum(self._sizes.values())
        task.done = sum(
            _sent(known[step], size) for step, size in self._sizes.items() if step in known
        )

    def protected(self) -> Collection[int]:
        """Return the steps that wait for their upload and must not be deleted here yet."""
        waiting = pending_uploads(self._directory, self._place)
        return [item.step for item in waiting[: self._keys.queue]]

    def elsewhere(self) -> Collection[int]:
        """Return the steps that are safe in storage and need not stay here."""
        if not self._keys.delete_local_after_upload:
            return ()
        return committed_uploads(self._directory, self._place)


def _sent(record: UploadRecord, size: int) -> int:
    if record.state in ("verifying", "committed"):
        return size
    return min(size, record.sent) if record.state == "uploading" else 0


def grace_seconds(keys: StorageKeys, *, stopped_by: str | None) -> float:
    """Return how long uploads may take when a start of a run has ended.

    Args:
        keys: the ``[storage]`` table.
        stopped_by: the name of a signal, ``failure``, or None when it ended by itself.
    """
    if stopped_by is None:
        return keys.close_timeout
    if keys.grace_seconds is not None:
        return keys.grace_seconds
    return 0.0 if stopped_by in ("SIGTERM", "SIGHUP") else GRACE_SECONDS


def upload_text(record: UploadRecord) -> str:
    """Return the state of an upload as people read it."""
    if record.cleaned:
        return "cleaned, the local checkpoint is deleted"
    size = size_text(record.size)
    again = "not tried again by itself" if record.final else "will be tried again"
    lost = f", {record.error}" if record.error else ""
    texts = {
        "queued": f"queued, {size}{lost}",
        "archiving": f"archiving {size}",
        "uploading": f"uploading, {size_text(record.sent)} of {size} in {record.seconds:.1f} s",
        "verifying": f"verifying {size}",
        "committed": f"committed, {size} in {record.seconds:.1f} s: {record.url}",
        "failed": f"failed (try {record.tries}), {again}: {record.error}",
        "cancelled": "cancelled, a newer checkpoint took its place",
    }
    return texts[record.state]
