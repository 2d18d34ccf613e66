"""Writing and reading files with their size and SHA-256, a chunk at a time.

The heavy calls (``os.write``, ``os.fsync``, reading, and hashing more than a few kilobytes)
release the GIL, so that a thread can do all this beside a training loop.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.rundir.atomic import OPEN_FLAGS

if TYPE_CHECKING:
    from llmforge.interfaces import Progress

CHUNK = 8 << 20
"""Bytes hashed and written at once."""


@dataclass(frozen=True)
class FileEntry:
    """What a manifest says of a file: ``size`` in bytes and ``sha256`` in hex."""

    size: int
    sha256: str


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> FileEntry:
    """Write ``chunks`` to the new file ``path``, force it to the disk and return its entry.

    Raises:
        OSError: ``path`` exists, or the disk does not take it.
    """
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o644)
    try:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileEntry(size, digest.hexdigest())


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the content of ``path`` in pieces of at most :data:`CHUNK` bytes."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def hash_file(path: Path, *, moved: Progress = lambda _: None) -> str:
    """Return the SHA-256 of ``path`` in hex; ``moved`` is given the bytes read."""
    digest = hashlib.sha256()
    for chunk in read_chunks(path):
        digest.update(chunk)
        moved(len(chunk))
    return digest.hexdigest()
