"""Uploading one checkpoint: everything under a folder of its own, verified, the COMMIT last."""

from __future__ import annotations

import datetime
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmforge.checkpoint.format import step_name
from llmforge.checkpoint.hashed_files import hash_file
from llmforge.checkpoint.manifest import MANIFEST, Manifest, read_manifest
from llmforge.errors import CheckpointError, CommitConflict, StorageError
from llmforge.interfaces import Progress
from llmforge.remote import archive as archives
from llmforge.remote.commits import Commit, decode_commit, encode_commit
from llmforge.remote.connection import Cancelled, Connections
from llmforge.remote.layout import COMMIT, RUN_FILES
from llmforge.remote.transfer import (
    Source,
    arrived,
    create,
    for_each,
    read,
    send,
    source_of,
    stored_size,
)

OnState = Callable[[str, int, int], None]
"""Told the state of an upload (archiving, uploading, verifying, committed) and the bytes done of
all; called from several threads, one at a time. It may raise
:class:`~llmforge.remote.connection.Cancelled` to end the upload."""

_RUN_SNAPSHOT = "run"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one upload is to do.

    Attributes:
        checkpoint: the local directory.
        folder: the folder of this step in storage.
        token: name of the folder below it that only this upload writes to.
        archive: ``none``, ``tar.gz`` or ``tar.zst``.
        run_files: files of the run that belong to the checkpoint, by name.
        staging: a local directory for what is made on the way, the same at every try.
    """

    checkpoint: Path
    folder: str
    token: str
    archive: str
    run_files: Mapping[str, Path]
    staging: Path


class Upload:
    """One try of one :class:`Job`; a further try continues with what arrived."""

    def __init__(
        self, connections: Connections, job: Job, *, concurrency: int, on_state: OnState
    ) -> None:
        self._connections = connections
        self._job = job
        self._concurrency = concurrency
        self._stopped = threading.Event()
        self._tell = on_state
        self._mine = f"{job.folder}/{job.token}"

    def run(self) -> Commit:
        """Return the commit of this checkpoint: the one written here, or an equal one found.

        Raises:
            CheckpointError: the local checkpoint is gone or damaged; nothing was committed.
            CommitConflict: storage has another checkpoint of this step.
            StorageError: storage did not take it, or the local disk nothing more; try again.
        """
        try:
            manifest = read_manifest(self._job.checkpoint)
            commit = self._commit_of(manifest, {})
            there = read_commit(self._connections, self._job.folder)
            if there is not None:
                return self._settle(there, commit)
            objects = self._stage(commit)
            self._send(objects)
            self._verify(objects)
            return self._publish(self._commit_of(manifest, objects))
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            kind = CheckpointError if gone else StorageError
            raise kind(
                f"{self._job.checkpoint} cannot be uploaded: {error.strerror or error}"
                + (f": {error.filename}" if error.filename else "")
            ) from error
        finally:
            self._packed.unlink(missing_ok=True)

    @property
    def _packed(self) -> Path:
        return self._job.staging / archives.archive_name(self._job.archive)

    def _commit_of(self, manifest: Manifest, objects: Mapping[str, Source]) -> Commit:
        own = source_of(self._job.checkpoint / MANIFEST).entry
        return Commit(
            token=self._job.token,
            step=manifest.step,
            archive=self._job.archive,
            files={**manifest.files, MANIFEST: own},
            objects={name: source.entry for name, source in objects.items()},
            is_best=manifest.is_best,
            recipe_hash=manifest.recipe_hash,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def _stage(self, commit: Commit) -> dict[str, Source]:
        """Return every object to be in storage by its name below the token's folder."""
        job = self._job
        job.staging.mkdir(parents=True, exist_ok=True)
        if job.archive == archives.NONE:
            objects = {
                name: Source(job.checkpoint / name, entry) for name, entry in commit.files.items()
            }
        else:
            objects = {archives.archive_name(job.archive): self._pack(commit)}
        for name, path in self._run_snapshot().items():
            objects[f"{RUN_FILES}/{name}"] = source_of(path)
        return objects

    def _pack(self, commit: Commit) -> Source:
        self._packed.unlink(missing_ok=True)  # of a try that was killed
        report = _Report(self._on_state, "archiving", sum(e.size for e in commit.files.values()))
        archives.pack(
            self._job.checkpoint,
            commit.files,
            self._packed,
            kind=self._job.archive,
            progress=report.of("archive", report.total),
        )
        return source_of(self._packed)

    def _run_snapshot(self) -> dict[str, Path]:
        """Copy the run's files as they are now, once for all tries.

        A COMMIT that a try before this one sent may still arrive: what it names must not change.
        """
        snapshot = self._job.staging / _RUN_SNAPSHOT
        if not snapshot.is_dir():
            partial = snapshot.with_name(f"{_RUN_SNAPSHOT}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for name, path in self._job.run_files.items():
                if path.is_file():
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, partial / name)
            partial.rename(snapshot)
        files = (path for path in snapshot.rglob("*") if path.is_file())
        return {path.relative_to(snapshot).as_posix(): path for path in sorted(files)}

    def _send(self, objects: Mapping[str, Source]) -> None:
        report = _Report(self._on_state, "uploading", _total(objects))
        there = self._connections.call(
            f"listing {self._mine}", lambda storage, _: storage.names(self._mine)
        )

        def one(name: str, source: Source) -> None:
            if hash_file(source.path) != source.entry.sha256:
                raise CheckpointError(f"{source.path} was altered: its SHA-256 differs")
            moved = report.of(name, source.entry.size)
            stored = f"{self._mine}/{name}"
            known = stored_size(self._connections, stored) if stored in there else None
            if known == source.entry.size:
                moved(known)  # of an earlier try; verified like the rest
            else:
                send(self._connections, source, stored, moved=moved)

        self._for_each(objects, one)

    def _verify(self, objects: Mapping[str, Source]) -> None:
        report = _Report(self._on_state, "verifying", _total(objects))

        def one(name: str, source: Source) -> None:
            moved = report.of(name, source.entry.size)
            stored = f"{self._mine}/{name}"
            if not arrived(self._connections, source, stored, moved=moved):
                send(self._connections, source, stored)
                if not arrived(self._connections, source, stored, moved=moved):
                    raise StorageError(
                        f"{self._connections.url}/{stored} is not what was sent, twice",
                        remedy="storage alters what it is given; nothing was committed",
                    )
            moved(source.entry.size)

        self._for_each(objects, one)

    def _for_each(self, objects: Mapping[str, Source], work: Callable[[str, Source], None]) -> None:
        """Do ``work`` for every object, the largest first, a few at once."""
        largest_first = sorted(objects.items(), key=lambda item: -item[1].entry.size)
        for_each(largest_first, work, concurrency=self._concurrency, failed=self._stopped.set)

    def _publish(self, commit: Commit) -> Commit:
        name = f"{self._job.folder}/{COMMIT}"
        failure: StorageError | None = None
        try:
            create(self._connections, name, encode_commit(commit))
        except StorageError as error:  # it may be there nevertheless, its answer lost
            failure = error
        # One that was there already is another writer's, or of an earlier try of ours.
        there = read_commit(self._connections, self._job.folder)
        if there is None:
            raise failure or StorageError(
                f"{self._connections.url}/{name} was written and is not there"
            )
        return self._settle(there, commit)

    def _on_state(self, state: str, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise Cancelled("another file of this upload failed")
        self._tell(state, done, total)

    def _settle(self, there: Commit, own: Commit) -> Commit:
        """Return the commit found in storage if it stands for this checkpoint."""
        if there.token != self._job.token:
            clear_token(self._connections, self._job.folder, self._job.token)
            if not there.same_checkpoint(own):
                raise CommitConflict(
                    f"{self._connections.url}/{self._job.folder} holds another checkpoint of step "
                    f"{own.step}, committed {there.created}",
                    remedy="it stays as it is; 'forge runs clear' starts a new attempt",
                )
        shutil.rmtree(self._job.staging, ignore_errors=True)
        self._on_state("committed", there.size, there.size)
        return there


def read_commit(connections: Connections, folder: str) -> Commit | None:
    """Return the commit in a step's folder, None when there is none.

    Raises:
        StorageError: there is one that cannot be trusted.
    """
    content = read(connections, f"{folder}/{COMMIT}")
    if content is None:
        return None
    where = f"{connections.url}/{folder}/{COMMIT}"
    commit = decode_commit(content, where=where)
    if step_name(commit.step) != folder.rpartition("/")[2]:
        raise StorageError(f"{where} is of step {commit.step}")
    return commit


def clear_token(connections: Connections, folder: str, token: str) -> None:
    """Delete what the upload ``token`` left in a step's folder."""
    name = f"{folder}/{token}"
    connections.call(f"deleting {name}", lambda storage, _: storage.delete(name))


class _Report:
    """Adds up what several threads move, file by file, and tells the sum."""

    def __init__(self, on_state: OnState, state: str, total: int) -> None:
        self.total = total
        self._on_state = on_state
        self._state = state
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()
        on_state(state, 0, total)

    def of(self, name: str, size: int) -> Progress:
        """Return what is given the bytes of one file; repeated tries count once."""

        def moved(amount: int) -> None:
            with self._lock:
                self._done[name] = min(size, self._done.get(name, 0) + amount)
                self._on_state(self._state, sum(self._done.values()), self.total)

        return moved


def _total(objects: Mapping[str, Source]) -> int:
    return sum(source.entry.size for source in objects.values())
