"""Publishing a folder: written beside its place, forced to the disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

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
    if target.parent.is_file():
        raise UsageError(f"{target.parent} is a file", remedy="give a folder that can be made")
    if not target.parent.is_dir():
        raise UsageError(f"there is no directory {target.parent}", remedy="make it first")
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file", remedy="give the name of a folder")
    if not any(target.iterdir()):
        return
    if not (target / MARK).is_file():
        raise UsageError(
            f"{target} is not a folder that was exported: it has no {MARK}",
            remedy="give another name, or remove it yourself",
        )
    if not overwrite:
        raise UsageError(f"{target} already exists", remedy="--force replaces it")


@contextlib.contextmanager
def published(target: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes ``target`` at the end, or nothing does.

    What killed processes left beside it is removed first; a folder that one had moved away to
    replace it is put back.

    Raises:
        CheckpointError: the disk does not take it.
    """
    from safetensors import SafetensorError

    work = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _clear_leftovers(target)
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
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{target} cannot be written: {why}", remedy="free space there, or choose another place"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def entries(folder: Path) -> dict[str, FileEntry]:
    """Return size and hash of every file in ``folder``, by its path within it."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(path.stat().st_size, hash_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _clear_leftovers(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)(\.old)?")
    for path in target.parent.iterdir():
        found = pattern.fullmatch(path.name)
        if found is None or (int(found[1]) != os.getpid() and psutil.pid_exists(int(found[1]))):
            continue
        if found[2] and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


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
