"""Bringing a committed checkpoint back, whole and verified or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from llmforge.checkpoint.format import verify
from llmforge.checkpoint.hashed_files import FileEntry
from llmforge.checkpoint.publish import preflight_space
from llmforge.errors import StorageError
from llmforge.interfaces import Progress
from llmforge.progress import track
from llmforge.remote import archive as archives
from llmforge.remote.commits import Commit
from llmforge.remote.connection import Connections
from llmforge.remote.layout import RUN_FILES
from llmforge.remote.transfer import for_each, receive, stored_hash, stored_size
from llmforge.rundir.atomic import sync_directory


def fetch_checkpoint(
    connections: Connections,
    folder: str,
    commit: Commit,
    target: Path,
    *,
    concurrency: int,
    moved: Progress,
) -> None:
    """Download the checkpoint ``commit`` of a step's ``folder`` into the new directory ``target``.

    Raises:
        StorageError: it is not what was committed, or the disk does not take it; there is no
            ``target`` then.
        CheckpointError: there is no room for it.
    """
    if target.exists():
        raise StorageError(f"{target} already exists", remedy="move it out of the way")
    needed = sum(entry.size for entry in commit.files.values())
    target.parent.mkdir(parents=True, exist_ok=True)
    preflight_space(target.parent, needed if commit.archive == archives.NONE else 2 * needed)
    partial = target.with_name(f".tmp-{target.name}-{os.getpid()}")
    packed = partial.with_name(f"{partial.name}.{archives.archive_name(commit.archive)}")
    mine = f"{folder}/{commit.token}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        if commit.archive == archives.NONE:
            _receive_all(connections, mine, commit.files, partial, concurrency, moved)
        else:
            name = archives.archive_name(commit.archive)
            receive(connections, f"{mine}/{name}", _object(commit, name), packed, moved=moved)
            archives.unpack(
                packed, commit.files, partial, kind=commit.archive, progress=lambda _: None
            )
        if wrong := verify(partial, hashes=False):
            where = f"{connections.url}/{folder}"
            raise StorageError(f"{where} is not a checkpoint: {'; '.join(wrong)}")
        for path in [partial, *(path for path in partial.rglob("*") if path.is_dir())]:
            sync_directory(path)
        partial.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise StorageError(
            f"{connections.url}/{folder} cannot be saved in {target}: {error.strerror or error}"
        ) from error
    finally:
        packed.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)


def fetch_run_files(
    connections: Connections, folder: str, commit: Commit, into: Path, *, concurrency: int
) -> list[str]:
    """Download the run's files that belong to ``commit`` into ``into``; return their names.

    Each replaces the one there in one step, once it is verified.
    """
    prefix = f"{RUN_FILES}/"
    files = {
        name.removeprefix(prefix): entry
        for name, entry in commit.objects.items()
        if name.startswith(prefix)
    }
    mine = f"{folder}/{commit.token}/{RUN_FILES}"
    try:
        _receive_all(connections, mine, files, into, concurrency, lambda _: None)
        for path in {(into / name).parent for name in files}:
            sync_directory(path)
    except OSError as error:
        raise StorageError(
            f"{connections.url}/{mine} cannot be saved in {into}: {error.strerror or error}"
        ) from error
    return sorted(files)


def verify_commit(
    connections: Connections, folder: str, commit: Commit, *, deep: bool, concurrency: int
) -> list[str]:
    """Return what is wrong with a committed checkpoint; empty when it is sound.

    Args:
        connections: where it is.
        folder: the step's folder.
        commit: what was committed.
        deep: also read everything back and compare its SHA-256, not only the sizes.
        concurrency: objects looked at together.
    """

    def one(name: str, entry: FileEntry) -> str:
        stored = f"{folder}/{commit.token}/{name}"
        size = stored_size(connections, stored)
        if size is None:
            return f"{stored} is missing"
        if size != entry.size:
            return f"{stored} has {size} bytes instead of {entry.size}"
        if deep and stored_hash(connections, stored, moved=task.advance) != entry.sha256:
            return f"{stored} was altered: its SHA-256 differs"
        return ""

    with track(f"reading back step {commit.step}", total=commit.size) as task:
        found = for_each(commit.objects.items(), one, concurrency=concurrency)
    return [problem for problem in found if problem]


def _object(commit: Commit, name: str) -> FileEntry:
    if name not in commit.objects:
        raise StorageError(f"the COMMIT of step {commit.step} names no {name}")
    return commit.objects[name]


def _receive_all(
    connections: Connections,
    folder: str,
    files: Mapping[str, FileEntry],
    into: Path,
    concurrency: int,
    moved: Progress,
) -> None:
    into.mkdir(parents=True, exist_ok=True)

    def one(name: str, entry: FileEntry) -> None:
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        receive(connections, f"{folder}/{name}", entry, path, moved=moved)

    for_each(files.items(), one, concurrency=concurrency)
