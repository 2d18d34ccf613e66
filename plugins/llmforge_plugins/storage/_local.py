"""A folder, every file in it whole or not there, whatever is killed when."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from llmforge.interfaces import Progress
from llmforge_plugins.storage._filesystem import CHUNK, FRESH, Filesystem

_PARTIAL = ".partial-"
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


class Local(Filesystem):
    """Files below a folder, forced to the disk before they get their name."""

    def __init__(self, url: str) -> None:
        filesystem = LocalFileSystem(**FRESH)
        super().__init__(url, filesystem, filesystem._strip_protocol(url))

    def create(self, name: str, content: bytes) -> None:
        """Write ``name`` only if nothing is there: the kernel lets one of two links succeed."""
        target = self._target(name)
        with _partial(target) as partial:
            _write(partial, content)
            try:
                os.link(partial, target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # Whole-or-nothing is lost here, not the promise that only one writer succeeds.
                _write(target, content)
        _sync(target.parent)

    def write(self, name: str, content: bytes) -> None:
        """Write or replace ``name`` in one step."""
        target = self._target(name)
        with _partial(target) as partial:
            _write(partial, content)
            partial.replace(target)
        _sync(target.parent)

    def put(self, source: Path, name: str, *, progress: Progress) -> None:
        """Copy the file ``source`` to ``name``, which appears complete."""
        target = self._target(name)
        with _partial(target) as partial:
            _copy(source, partial, progress)
            partial.replace(target)
        _sync(target.parent)

    def get(self, name: str, target: Path, *, progress: Progress) -> None:
        """Copy ``name`` into the file ``target``."""
        target.unlink(missing_ok=True)
        _copy(Path(self.path(name)), target, progress)

    def names(self, below: str) -> list[str]:
        """Return every name under the folder ``below``, what is being written left out."""
        return [name for name in super().names(below) if f"/{_PARTIAL}" not in f"/{name}"]

    def delete(self, name: str) -> None:
        """Delete ``name`` and everything under it."""
        path = Path(self.path(name))
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def remedy(self, error: Exception) -> str:
        """Say what a refusing disk needs."""
        if isinstance(error, PermissionError):
            return f"let this user write to {self.path('')}"
        if isinstance(error, NotADirectoryError | FileExistsError):
            return "a part of this path is a file: give the path of a folder"
        if isinstance(error, FileNotFoundError):
            return "no folder can be made there: give another path"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"free some space on the disk of {self.path('')}"
        return ""

    def _target(self, name: str) -> Path:
        target = Path(self.path(name))
        _make_folder(target.parent)
        return target


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Give the name of a file beside ``target`` that is gone afterwards."""
    partial = target.with_name(f"{_PARTIAL}{secrets.token_hex(8)}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it, forced to the disk with what they will hold."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _sync(path.parent)


def _write(path: Path, content: bytes) -> None:
    """Write the new file ``path`` to the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _copy(source: Path, target: Path, progress: Progress) -> None:
    """Copy ``source`` to the new file ``target``, on the disk when this returns."""
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
            progress(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
