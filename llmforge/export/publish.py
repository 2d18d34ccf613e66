"""Publishing a folder: written beside its place, forced to the disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from llmforge.checkpoint.hashed_files import FileEntry, hash_file
from llmforge.errors import CheckpointError, UsageError
from llmforge.rundir.atomic import sync_directory

MARK = "training_args.json"
"""Every exported folder has this file; a folder without it is never replaced."""


def require_place(target: Path, *, overwrite: bool) -> None:
    """Refuse a place that no folder can be published at, before anything is computed.

    Raises:
        UsageError: it is taken, or the folder it would be in does not exist.
    """
    if not target.parent.is_dir():
        raise UsageError(f"there is no directory {target.parent}", remedy="make it first")
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file", remedy="give the name of a folder")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{target} already exists", remedy="--force replaces it")
    if not (target / MARK).is_file():
        raise UsageError(
            f"{target} is not a folder that was exported: it has no {MARK}",
            remedy="give another name, or remove it yourself",
        )


@contextlib.contextmanager
def published(target: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes ``target`` at the end, or nothing does.

    Raises:
        CheckpointError: the disk does not take it.
    """
    work = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield work
        for path in sorted(work.rglob("*")):
            if path.is_dir():
                sync_directory(path)
            else:
                path.chmod(0o644)  # safetensors makes its files for their owner alone
                _sync_file(path)
        sync_directory(work)
        _swap(work, target)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def entries(folder: Path) -> dict[str, FileEntry]:
    """Return size and hash of every file in ``folder``, by its path within it."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(path.stat().st_size, hash_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _swap(work: Path, target: Path) -> None:
    """Put ``work`` where ``target`` is; what was there is deleted once the new one is in place."""
    old = work.with_name(f"{work.name}.old")
    if target.exists():
        target.rename(old)
    try:
        work.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    sync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
