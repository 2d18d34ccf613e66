"""Uploading what a run has not in storage, now and in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from llmforge.checkpoint import list_checkpoints, verify
from llmforge.courier.checkpoint_uploads import Uploader
from llmforge.courier.lock import only_courier
from llmforge.courier.small_files import Mirror
from llmforge.courier.upload_queue import new_record
from llmforge.remote import RemoteRun
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord, read_uploads, write_upload


def push(
    directory: RunDirectory,
    remote: RemoteRun,
    *,
    archive: str,
    steps: Collection[int] | None,
    seconds: float,
    on_change: Callable[[UploadRecord], None],
    on_error: Callable[[str], None],
) -> list[int]:
    """Upload checkpoints, and the run's small files; return the steps that are still missing.

    What is committed and damaged there is withdrawn and sent again.

    Args:
        directory: the run.
        remote: its place in storage.
        archive: ``none``, ``tar.gz`` or ``tar.zst``.
        steps: upload these only; all when None.
        seconds: how long it may take.
        on_change: told a record whenever its state changes.
        on_error: told what else went wrong.

    Raises:
        RunLockedError: the run's courier is at it already.
        StorageError: the small files could not be mirrored, or storage does not answer at all.
    """
    with only_courier(directory, wait=1.0):
        _withdraw_damaged(directory, remote, steps, on_change)
        uploader = Uploader(
            directory,
            remote,
            archive=archive,
            on_change=on_change,
            on_error=on_error,
            only=None if steps is None else frozenset(steps),
        )
        deadline = time.monotonic() + seconds
        uploader.start()
        uploader.close()
        while uploader.is_alive() and time.monotonic() < deadline:
            uploader.join(0.2)
        missing = uploader.pending()
        if not missing:
            Mirror(directory, remote, on_error=on_error).look(last=True)
        return missing


def _withdraw_damaged(
    directory: RunDirectory,
    remote: RemoteRun,
    steps: Collection[int] | None,
    on_change: Callable[[UploadRecord], None],
) -> None:
    """Take back the COMMIT of what is damaged in storage and sound here.

    All contents are read back when ``steps`` are named, the sizes compared when not.
    """
    known = read_uploads(directory)
    for checkpoint in list_checkpoints(directory.checkpoints):
        if steps is not None and checkpoint.step not in steps:
            continue
        commit = remote.commit(checkpoint.step)
        wrong = [] if commit is None else remote.verify(commit, deep=steps is not None)
        if commit is None or not wrong or verify(checkpoint.path):
            continue
        remote.withdraw(commit)
        record = new_record(known, checkpoint, remote.url)
        record.error = f"damaged in storage: {wrong[0]}"
        write_upload(directory, record)
        on_change(record)
