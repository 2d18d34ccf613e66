"""Files between this machine and storage, a few at once, each believed once its hash is right."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from llmforge.checkpoint.hashed_files import FileEntry, hash_file
from llmforge.errors import StorageError
from llmforge.interfaces import Progress
from llmforge.remote.connection import Connections

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")


@dataclass(frozen=True)
class Source:
    """A finished local file, and what it is known to hold."""

    path: Path
    entry: FileEntry


def source_of(path: Path) -> Source:
    """Return ``path`` with its size and SHA-256."""
    return Source(path, FileEntry(path.stat().st_size, hash_file(path)))


def send(
    connections: Connections, source: Source, name: str, *, moved: Progress | None = None
) -> None:
    """Upload ``source`` as ``name``, replacing what is there; :func:`arrived` verifies it."""
    connections.call(
        f"uploading {name}",
        lambda storage, progress: storage.put(source.path, name, progress=progress),
        moved=moved,
        limited=True,
    )


def stored_size(connections: Connections, name: str) -> int | None:
    """Return the bytes of ``name``, None when nothing is there."""
    return connections.call(f"looking at {name}", lambda storage, _: storage.size(name))


def arrived(
    connections: Connections, source: Source, name: str, *, moved: Progress | None = None
) -> bool:
    """Return whether ``name`` holds ``source``, by the service's checksum or by reading it back."""
    try:
        told = connections.call(
            f"verifying {name}",
            lambda storage, progress: storage.same(name, source.path, progress=progress),
            expected=(FileNotFoundError,),
            moved=moved,
        )
    except FileNotFoundError:
        return False
    if told is not None:
        return told
    if stored_size(connections, name) != source.entry.size:
        return False
    return stored_hash(connections, name, moved=moved) == source.entry.sha256


def stored_hash(connections: Connections, name: str, *, moved: Progress | None = None) -> str:
    """Return the SHA-256 of ``name``, read back."""
    return connections.call(
        f"reading back {name}",
        lambda storage, progress: storage.sha256(name, progress=progress),
        moved=moved,
    )


def read(connections: Connections, name: str) -> bytes | None:
    """Return the content of the small file ``name``, None when nothing is there."""
    try:
        return connections.call(
            f"reading {name}",
            lambda storage, _: storage.read(name),
            expected=(FileNotFoundError,),
        )
    except FileNotFoundError:
        return None


def create(connections: Connections, name: str, content: bytes) -> bool:
    """Write ``name`` unless something is there; return whether it was written here.

    False may mean an earlier try of this very call, whose answer was lost.
    """
    try:
        connections.call(
            f"creating {name}",
            lambda storage, _: storage.create(name, content),
            expected=(FileExistsError,),
        )
    except FileExistsError:
        return False
    return True


def receive(
    connections: Connections,
    name: str,
    entry: FileEntry,
    target: Path,
    *,
    moved: Progress | None = None,
) -> None:
    """Download ``name`` to the new file ``target``, which exists only if it is what it should be.

    Raises:
        StorageError: it is not there, or not ``entry``.
    """
    size = stored_size(connections, name)
    if size is None:
        raise StorageError(f"{connections.url}/{name} is missing")
    if size != entry.size:  # looked at before, so that nothing fills the disk
        raise StorageError(f"{connections.url}/{name} has {size} bytes instead of {entry.size}")
    partial = target.with_name(f".{target.name}.partial")
    try:
        connections.call(
            f"downloading {name}",
            lambda storage, progress: storage.get(name, partial, progress=progress),
            moved=moved,
        )
        if source_of(partial).entry != entry:
            raise StorageError(f"{connections.url}/{name} was altered: its SHA-256 differs")
        _sync(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def for_each(
    items: Iterable[tuple[K, V]],
    work: Callable[[K, V], R],
    *,
    concurrency: int,
    failed: Callable[[], None] = lambda: None,
) -> list[R]:
    """Return what ``work`` returns for each of ``items``, in their order.

    The first error ends it: what has not started does not begin, ``failed`` is called so that what
    is under way may stop, and the error is raised once that has. Ctrl-C waits for nothing.
    """
    waiting = deque(enumerate(items))
    results: dict[int, R] = {}
    errors: list[BaseException] = []

    def serve() -> None:
        while not errors:
            try:
                index, (key, value) = waiting.popleft()
            except IndexError:
                return
            try:
                results[index] = work(key, value)
            except BaseException as error:  # raised again by the thread that waits
                errors.append(error)
                failed()

    threads = [
        threading.Thread(target=serve, name=f"forge-remote-{number}", daemon=True)
        for number in range(min(concurrency, len(waiting)))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:
        errors.append(error)
        failed()
        raise
    if errors:
        raise errors[0]
    return [results[index] for index in sorted(results)]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
