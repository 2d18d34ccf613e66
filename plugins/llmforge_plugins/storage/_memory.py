"""fsspec's memory, made safe for threads."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from fsspec.implementations.memory import MemoryFileSystem

from llmforge.interfaces import Progress, public_url
from llmforge_plugins.storage._filesystem import FRESH, Filesystem

_LOCK = threading.RLock()
"""The memory is one dictionary for the whole process, and so is its lock."""


class Memory(Filesystem):
    """Files in a dictionary of this process."""

    def __init__(self, url: str) -> None:
        filesystem = MemoryFileSystem(**FRESH)
        super().__init__(url, filesystem, filesystem._strip_protocol(public_url(url)))

    def create(self, name: str, content: bytes) -> None:
        """Write ``name`` only if nothing is there."""
        with _LOCK:
            super().create(name, content)

    def write(self, name: str, content: bytes) -> None:
        """Write or replace ``name``."""
        with _LOCK:
            super().write(name, content)

    def read(self, name: str) -> bytes:
        """Return the content of ``name``."""
        with _LOCK:
            return super().read(name)

    def put(self, source: Path, name: str, *, progress: Progress) -> None:
        """Keep the content of the file ``source``."""
        content = source.read_bytes()
        self.write(name, content)
        progress(len(content))

    def get(self, name: str, target: Path, *, progress: Progress) -> None:
        """Write ``name`` into the file ``target``."""
        content = self.read(name)
        target.write_bytes(content)
        progress(len(content))

    def size(self, name: str) -> int | None:
        """Return the bytes of ``name``, None when nothing is there."""
        with _LOCK:
            return super().size(name)

    def sha256(self, name: str, *, progress: Progress) -> str:
        """Return the SHA-256 of ``name``."""
        content = self.read(name)
        progress(len(content))
        return hashlib.sha256(content).hexdigest()

    def names(self, below: str) -> list[str]:
        """Return every name under the folder ``below``."""
        with _LOCK:
            return super().names(below)

    def folders(self, below: str) -> list[str]:
        """Return the names of the folders directly in ``below``."""
        with _LOCK:
            return super().folders(below)

    def delete(self, name: str) -> None:
        """Delete ``name`` and everything under it."""
        with _LOCK:
            super().delete(name)
