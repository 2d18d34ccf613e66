"""Directories of prepared data in the cache: built once, seen whole or not at all, verified.

An entry appears by one rename, so that a reader never sees half of it; a lock lets one process
build while others wait. Its ``meta.json`` says which files it has, with sizes and hashes: one that
is damaged is built again. Files are hashed once and then only looked at: ``checked.json`` says what
size and times they had, so that an entry of any size opens at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmforge.errors import DataError
from llmforge.file_lock import build_lock
from llmforge.interfaces import Progress
from llmforge.progress import track
from llmforge.rundir.atomic import write_json

FINISHED = ".finished.jsonl"
"""What the names of files end with that say how much of a resumable build is finished."""

_META = "meta.json"
_CHECKED = "checked.json"
_UNCERTAIN_NS = 2_000_000_000
"""A file written so shortly ago may change again without a new time."""
_HASH_BLOCK = 1 << 24

Meta = Mapping[str, Any]


@dataclass(frozen=True)
class StoredFile:
    """What a file of an entry must be: its size in bytes, and its hash."""

    size: int
    sha256: str


class DamagedEntry(Exception):
    """An entry that is not what its metadata says."""


def cached(
    entry: Path,
    *,
    fingerprint: str,
    build: Callable[[Path], Meta],
    files: Callable[[Meta], Mapping[str, StoredFile]],
    notice: Callable[[str], None],
    check_stop: Callable[[], None],
    resumable: bool = False,
    verify: bool = False,
) -> Meta:
    """Return the metadata of an entry whose files are all sound, building it where needed.

    Safe for several processes at once and after a kill at any instant.

    Args:
        entry: the directory.
        fingerprint: of what it is made from.
        build: writes the files into a directory and returns the metadata beside ``fingerprint``.
        files: the files that metadata promises.
        notice: told when the entry was damaged, or another process is waited for.
        check_stop: called every few megabytes; what it raises ends the work cleanly.
        resumable: ``build`` is given the directory of a build that did not end, if it left a file
            whose name ends with :data:`FINISHED`, and continues it.
        verify: hash every file, also one that looks as it did when it was hashed last.

    Raises:
        DataError: the cache cannot be read or written.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        if verify:
            (entry / _CHECKED).unlink(missing_ok=True)
        found = _read(entry, fingerprint, files, _silent, check_stop)
        if found is not None:
            return found
        with build_lock(entry.with_suffix(".lock"), notice=notice, check_stop=check_stop):
            found = _read(entry, fingerprint, files, notice, check_stop)
            if found is None:
                _build(entry, fingerprint, build, resumable=resumable)
                found = _verified(entry, fingerprint, files, check_stop)
    except OSError as error:
        raise DataError(
            f"the token cache {entry.parent} cannot be used: {error}",
            remedy="free space there, or set FORGE_CACHE to another directory",
        ) from error
    return found


def _silent(text: str) -> None:
    """Say nothing: damage is reported once, under the lock."""
    del text


def _read(
    entry: Path,
    fingerprint: str,
    files: Callable[[Meta], Mapping[str, StoredFile]],
    notice: Callable[[str], None],
    check_stop: Callable[[], None],
) -> Meta | None:
    """Return the metadata, or None when there is no entry or it is damaged."""
    if not entry.exists():
        return None
    try:
        return _verified(entry, fingerprint, files, check_stop)
    except DamagedEntry as damage:
        notice(f"token cache {entry} is damaged ({damage}): tokenising again")
        return None


def _verified(
    entry: Path,
    fingerprint: str,
    files: Callable[[Meta], Mapping[str, StoredFile]],
    check_stop: Callable[[], None],
) -> Meta:
    """Return the metadata once every file is what it says.

    Raises:
        DamagedEntry: one is not.
    """
    try:
        meta: Meta = json.loads((entry / _META).read_text(encoding="utf-8"))
        if meta["fingerprint"] != fingerprint:
            raise DamagedEntry(f"{_META} belongs to another entry")
        expected = files(meta)
        known = _checked(entry)
        if any(known.get(name) != _look(entry / name) for name in expected):
            with track(
                "checking the token cache", total=sum(f.size for f in expected.values())
            ) as task:
                looks = {name: _look(entry / name) for name in expected}
                for name, file in expected.items():
                    _verify(entry / name, file, check_stop, moved=task.advance)
            _remember(entry, looks)
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        raise DamagedEntry(f"{type(error).__name__}: {error}") from error
    return meta


def _look(path: Path) -> list[int]:
    """Return what changes when a file is written to, copied or put back."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _checked(entry: Path) -> Mapping[str, Any]:
    """Return how the files looked that were found sound."""
    try:
        body = json.loads((entry / _CHECKED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def _remember(entry: Path, looks: Mapping[str, list[int]]) -> None:
    certain = time.time_ns() - _UNCERTAIN_NS
    if all(modified < certain for _, modified, _ in looks.values()):
        with contextlib.suppress(OSError):  # a cache that is only read is hashed every time
            write_json(entry / _CHECKED, looks, durable=False)


def _verify(
    path: Path, expected: StoredFile, check_stop: Callable[[], None], *, moved: Progress
) -> None:
    size = path.stat().st_size
    if size != expected.size:
        raise DamagedEntry(f"{path.name} has {size} bytes instead of {expected.size}")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
            moved(len(block))
            check_stop()
    if digest.hexdigest() != expected.sha256:
        raise DamagedEntry(f"{path.name} does not hold what was written")


def _build(
    entry: Path, fingerprint: str, build: Callable[[Path], Meta], *, resumable: bool
) -> None:
    """Write the entry beside its place and rename it there. The caller holds the lock."""
    prefix = f".{fingerprint}-"
    partial = entry.parent / f"{prefix}partial"
    for leftover in entry.parent.glob(f"{prefix}*"):  # of builds that were killed
        if not resumable or leftover != partial:
            shutil.rmtree(leftover)
    if resumable:
        partial.mkdir(mode=0o700, exist_ok=True)
    work = partial if resumable else Path(tempfile.mkdtemp(prefix=prefix, dir=entry.parent))
    try:
        meta = {"fingerprint": fingerprint, **build(work)}
        for path in work.glob(f"*{FINISHED}"):
            path.unlink()
        _date_back(work)
        (work / _META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        if entry.exists():  # damaged; those who have it mapped keep what they have
            shutil.rmtree(entry)
        work.rename(entry)
    finally:
        if not any(path.stat().st_size for path in work.glob(f"*{FINISHED}")):
            shutil.rmtree(work, ignore_errors=True)


def _date_back(directory: Path) -> None:
    """Give files an older time, so that whatever is written to them later shows."""
    before = time.time_ns() - 2 * _UNCERTAIN_NS
    for path in directory.iterdir():
        os.utime(path, ns=(before, before))


def mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the numbers in a file of an entry, memory-mapped and read-only."""
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)
