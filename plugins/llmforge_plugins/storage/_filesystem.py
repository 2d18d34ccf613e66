"""A storage over any fsspec file system; the services with something of their own build on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsspec.callbacks import Callback
from fsspec.core import url_to_fs

from llmforge.interfaces import Progress, public_url

CHUNK = 8 << 20
"""Bytes moved at once."""

FRESH = {"skip_instance_cache": True, "use_listings_cache": False}
"""What every file system is made with: a shared or caching one shows what was there earlier."""


class Filesystem:
    """The methods of :class:`llmforge.interfaces.Storage` by what every fsspec file system has.

    Args:
        url: the root.
        filesystem: an instance made for this object.
        root: the root as the file system knows it.
    """

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self.url = public_url(url)
        self.filesystem = filesystem
        self._root = root.rstrip("/")

    def path(self, name: str) -> str:
        """Return ``name`` as the file system knows it."""
        return f"{self._root}/{name}" if name else self._root

    def create(self, name: str, content: bytes) -> None:
        """Write ``name`` only if nothing is there, as far as the file system can tell."""
        self._make_folder(self.path(name).rpartition("/")[0] or "/")
        self.filesystem.pipe_file(self.path(name), content, mode="create")

    def write(self, name: str, content: bytes) -> None:
        """Write or replace ``name``."""
        self._make_folder(self.path(name).rpartition("/")[0] or "/")
        self.filesystem.pipe_file(self.path(name), content)

    def read(self, name: str) -> bytes:
        """Return the content of ``name``."""
        return bytes(self.filesystem.cat_file(self.path(name)))

    def put(self, source: Path, name: str, *, progress: Progress) -> None:
        """Upload the file ``source``."""
        self._make_folder(self.path(name).rpartition("/")[0] or "/")
        told = Told(progress)
        self.filesystem.put_file(str(source), self.path(name), callback=told)
        told.rest(source.stat().st_size)

    def get(self, name: str, target: Path, *, progress: Progress) -> None:
        """Download ``name`` into the file ``target``."""
        if self.size(name) is None:
            raise FileNotFoundError(self.path(name))
        told = Told(progress)
        self.filesystem.get_file(self.path(name), str(target), callback=told)
        told.rest(target.stat().st_size)

    def size(self, name: str) -> int | None:
        """Return the bytes of ``name``, None when nothing is there."""
        try:
            info = self.filesystem.info(self.path(name))
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else int(info["size"])

    def same(self, name: str, source: Path, *, progress: Progress) -> bool | None:
        """Return None: file systems have no checksum in common."""
        del name, source, progress
        return None

    def sha256(self, name: str, *, progress: Progress) -> str:
        """Read ``name`` back, a chunk at a time, and return its SHA-256."""
        digest = hashlib.sha256()
        with self.filesystem.open(self.path(name), "rb", block_size=CHUNK) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                progress(len(chunk))
        return digest.hexdigest()

    def names(self, below: str) -> list[str]:
        """Return every name under the folder ``below``."""
        folder = self.path(below)
        try:
            found = self.filesystem.find(folder)
        except FileNotFoundError as error:
            self._check_root(error)
            return []
        return sorted(self._relative(path) for path in found if _clean(path) != _clean(folder))

    def folders(self, below: str) -> list[str]:
        """Return the names of the folders directly in ``below``."""
        try:
            found = self.filesystem.ls(self.path(below), detail=True)
        except FileNotFoundError as error:
            self._check_root(error)
            return []
        folders = [_clean(item["name"]) for item in found if item["type"] == "directory"]
        return sorted({path.rpartition("/")[2] for path in folders} - {""})

    def delete(self, name: str) -> None:
        """Delete ``name`` and everything under it."""
        path = self.path(name)
        if self.filesystem.exists(path):
            self.filesystem.rm(path, recursive=True)

    def remedy(self, error: Exception) -> str:
        """Return nothing: what such a file system wants is not known here."""
        del error
        return ""

    def _make_folder(self, path: str) -> None:
        self.filesystem.makedirs(path, exist_ok=True)

    def _check_root(self, error: FileNotFoundError) -> None:
        """Raise another error when the whole place is missing and not only a folder in it."""

    def _relative(self, path: str) -> str:
        return _clean(path).removeprefix(_clean(self._root)).lstrip("/")


def any_filesystem(url: str, options: Mapping[str, Any]) -> Filesystem:
    """Open ``url`` with the file system that fsspec knows for its scheme."""
    filesystem, root = url_to_fs(url, **FRESH, **options)
    return Filesystem(url, filesystem, root)


class Told(Callback):
    """Hands the bytes that fsspec reports on to ``progress``."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._told = 0

    def call(self, hook_name: str | None = None, **keywords: Any) -> None:
        """Take note of what moved; fsspec calls this on every update."""
        del hook_name, keywords
        moved, self._told = self.value - self._told, max(self.value, self._told)
        if moved > 0:
            self._progress(moved)

    def rest(self, size: int) -> None:
        """Report what a file system that reports nothing has moved."""
        self.absolute_update(size)


def _clean(path: str) -> str:
    return path.rstrip("/")
