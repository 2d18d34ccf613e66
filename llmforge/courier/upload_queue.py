"""Which checkpoints of a run are in storage and which are to go there, by what is on the disk.

A record counts for one checkpoint at one place: an earlier checkpoint of the same step, or an
upload to another URL, says nothing about it.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping

from llmforge.checkpoint import Checkpoint, list_checkpoints
from llmforge.checkpoint.format import step_name
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord, UploadState, read_uploads, write_upload

DONE: tuple[UploadState, ...] = ("committed", "cancelled")
BEGUN: tuple[UploadState, ...] = ("archiving", "uploading", "verifying")


def checkpoint_url(place: str, step: int) -> str:
    """Return where the checkpoint of ``step`` is in a run's ``place`` in storage."""
    return f"{place}/checkpoints/{step_name(step)}"


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return what tells a checkpoint from every other one: its time, and a hash of its hashes."""
    manifest = checkpoint.manifest
    hashes = "".join(manifest.files[name].sha256 for name in sorted(manifest.files))
    return f"{manifest.created} {hashlib.sha256(hashes.encode()).hexdigest()[:16]}"


def pending_uploads(directory: RunDirectory, place: str) -> list[Checkpoint]:
    """Return the checkpoints that are not in storage, in the order they are to be uploaded.

    Those that are under way come first, then the newest, the best, and the others, newest first.

    Args:
        directory: the run.
        place: its URL in storage, with the attempt.
    """
    known = read_uploads(directory)
    waiting, started = [], set()
    for checkpoint in list_checkpoints(directory.checkpoints):
        record = record_of(known, checkpoint, place)
        if record is None or record.state not in DONE:
            waiting.append(checkpoint)
        if record is not None and record.token and record.state != "failed":
            started.add(checkpoint.step)
    best = max((item.step for item in waiting if item.is_best), default=None)
    newest = max((item.step for item in waiting), default=None)
    return sorted(
        waiting,
        key=lambda item: (item.step in started, item.step == newest, item.step == best, item.step),
        reverse=True,
    )


def committed_uploads(directory: RunDirectory, place: str) -> set[int]:
    """Return the steps whose checkpoint here is in storage at ``place``, verified."""
    known = read_uploads(directory)
    here = list_checkpoints(directory.checkpoints)
    records = ((item.step, record_of(known, item, place)) for item in here)
    return {step for step, record in records if record and record.state == "committed"}


def record_of(
    known: Mapping[int, UploadRecord], checkpoint: Checkpoint, place: str
) -> UploadRecord | None:
    """Return the record of exactly this checkpoint at this place, None when there is none."""
    record = known.get(checkpoint.step)
    if record is None or record.checkpoint != fingerprint(checkpoint):
        return None
    return record if record.url == checkpoint_url(place, checkpoint.step) else None


def new_record(
    known: Mapping[int, UploadRecord], checkpoint: Checkpoint, place: str
) -> UploadRecord:
    """Return a record of a checkpoint that is to go to ``place``.

    What an upload of an earlier checkpoint of the step may have left there is to be removed.
    """
    earlier, url = known.get(checkpoint.step), checkpoint_url(place, checkpoint.step)
    return UploadRecord(
        step=checkpoint.step,
        checkpoint=fingerprint(checkpoint),
        size=checkpoint.manifest.size,
        url=url,
        leftovers=_left_by(earlier) if earlier is not None and earlier.url == url else [],
    )


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
            _give_up(directory, record)
        write_upload(directory, record)
        on_change(record)


def forget_uploads(directory: RunDirectory, *, after: int) -> None:
    """Let the checkpoints after step ``after`` count as not uploaded; for a run that goes back."""
    for record in read_uploads(directory).values():
        if record.step > after and record.state != "cancelled":
            _give_up(directory, record)
            write_upload(directory, record)


def _give_up(directory: RunDirectory, record: UploadRecord) -> None:
    if record.token:
        shutil.rmtree(directory.uploads / record.token, ignore_errors=True)
    record.leftovers = _left_by(record)
    record.state, record.token, record.sent = "cancelled", "", 0
    record.checkpoint = record.error = ""
    record.updated = time.time()


def _left_by(record: UploadRecord) -> list[str]:
    """Return the tokens under which an upload may have left what no COMMIT names."""
    unfinished = record.token and record.state != "committed"
    return [*record.leftovers, *([record.token] if unfinished else [])]
