"""Uploading what a run has not in storage, now and in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from llmforge.courier.lock import only_courier
from llmforge.courier.mirror import Mirror
from llmforge.courier.uploader import Uploader
from llmforge.remote import RemoteRun
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord


def push(
    directory: RunDirectory,
    remote: RemoteRun,
    *,
    archive: str,
    steps: Collection[int] | None,
    seconds: float,
    on_change: Callable[[UploadRecord], None],
) -> list[int]:
    """Upload checkpoints, and the run's small files; return the steps that are still missing.

    Args:
        directory: the run.
        remote: its place in storage.
        archive: ``none``, ``tar.gz`` or ``tar.zst``.
        steps: upload these only; all when None.
        seconds: how long it may take.
        on_change: told a record whenever its state changes.

    Raises:
        RunLockedError: the run's courier is at it already.
        StorageError: the small files could not be mirrored.
    """
    with only_courier(directory, wait=1.0):
        uploader = Uploader(
            directory,
            remote,
            archive=archive,
            on_change=on_change,
            only=None if steps is None else frozenset(steps),
        )
        deadline = time.monotonic() + seconds
        uploader.start()
        uploader.close()
        while uploader.is_alive() and time.monotonic() < deadline:
            uploader.join(0.2)
        missing = uploader.pending()
        if not missing:
            Mirror(directory, remote, on_error=lambda _: None).look()
        return missing
