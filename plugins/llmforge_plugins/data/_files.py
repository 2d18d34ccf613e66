"""Files: hashes of their contents, kept while a file looks the same; writing all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from llmforge.errors import DataError
from llmforge.interfaces import Progress

_BLOCK = 1 << 22
_UNCERTAIN_NS = 2_000_000_000
"""A file written so shortly before it was hashed may change again without a new time."""


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
    temporary = Path(name)
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def checksum(path: Path, *, cache: Path, moved: Progress = lambda _: None) -> str:
    """Return the SHA-256 of ``path``; ``moved`` is given its bytes as they are through.

    It is computed again when size or time of modification are not those of the last time; so a
    start does not read a hundred gigabytes to find that nothing changed.

    Raises:
        DataError: the file cannot be read.
    """
    return str(remembered(path, "sha256", partial(sha256_of, path), cache=cache, moved=moved))


def remembered(
    path: Path,
    what: str,
    found_by: Callable[..., Any],
    *,
    cache: Path,
    moved: Progress = lambda _: None,
) -> Any:
    """Return what ``found_by`` finds in a file, as JSON has it: asked again when the file changed.

    Args:
        path: the file.
        what: names what is found.
        found_by: reads the file; ``moved`` is given to it.
        cache: root of the cache.
        moved: given the bytes as they are through.

    Raises:
        DataError: the file cannot be read.
    """
    named = str(path) if what == "sha256" else f"{what}:{path}"
    name = hashlib.sha256(named.encode()).hexdigest()[:32]
    record = cache / "datasets" / "checksums" / f"{name}.json"
    status = path.stat()
    look = {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    known = _read(record)
    if what in known and {key: known.get(key) for key in look} == look:
        moved(status.st_size)
        return known[what]
    started = time.time_ns()
    found = found_by(moved=moved)
    if status.st_mtime_ns < started - _UNCERTAIN_NS:
        with written_whole(record) as temporary:
            temporary.write_text(json.dumps({**look, what: found}), encoding="utf-8")
    return found


def _read(record: Path) -> dict[str, object]:
    try:
        body = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
