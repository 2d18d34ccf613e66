"""Files: hashes of their contents, writing all or nothing."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmforge.errors import DataError
from llmforge.interfaces import Progress

_BLOCK = 1 << 22


def sha256_of(path: Path, *, moved: Progress = lambda _: None) -> str:
    """Return the SHA-256 of a file's bytes; ``moved`` is given how many are read.

    Raises:
        DataError: it cannot be read.
    """
    try:
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                moved(len(block))
        return digest.hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it becomes ``target`` unless the block raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=target.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
