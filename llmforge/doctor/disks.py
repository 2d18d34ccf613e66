"""The directories that runs write to: room, speed, locks, and whether they are on the network."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from llmforge.doctor.finding import Finding, ok, problem, warning
from llmforge.file_lock import lock_file
from llmforge.progress import size_text
from llmforge.rundir.atomic import DISK_FULL

_WRITTEN = 8 << 20
_SLOW = 20e6  # bytes a second, below which checkpoints of even small models take their time
_LITTLE = 2 << 30
_TOO_LITTLE = 64 << 20
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph"}
    | {"fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.glusterfs", "glusterfs", "afs", "9p"}
)


def check_disks(root: Path, cache: Path) -> Iterator[Finding]:
    """Yield what is found where runs, caches and temporary files are kept.

    Args:
        root: the directory of all runs; it need not exist yet.
        cache: the same for what is shared between runs.
    """
    other = "another one with run.root or FORGE_RUN_ROOT"
    yield check_directory("disk.runs", "runs", root, elsewhere=other, locks=True)
    network = network_file_system(existing(root))
    if network:
        yield warning(
            "disk.network",
            f"runs: {root} is on a network file system ({network}), which checkpoints wait for",
            remedy=f"nothing, if several machines train one run; else choose {other} and keep "
            "copies in storage",
        )
    yield check_directory("disk.cache", "cache", cache, elsewhere="another one with FORGE_CACHE")
    yield check_directory(
        "disk.temporary",
        "temporary files",
        Path(tempfile.gettempdir()),
        elsewhere="another one with TMPDIR",
    )


def check_directory(
    check: str, name: str, path: Path, *, elsewhere: str, locks: bool = False
) -> Finding:
    """Return whether files can be written in ``path``, how fast, and how much room there is.

    A file of 8 MiB is written beside what is there, forced to the disk and deleted.

    Args:
        check: of the finding.
        name: what is kept there, for people.
        path: the directory; where it does not exist yet, the one that it will be made in is tried.
        elsewhere: how to choose another one.
        locks: whether locks are needed, too.
    """
    there, label = existing(path), f"{name}: {path.absolute()}"
    if not there.is_dir():
        remedy = f"{there} is in the way: move it, or choose {elsewhere}"
        return problem(check, f"{label} cannot be a directory", remedy=remedy)
    try:
        seconds, lock_failure = _written(there, locks=locks)
        free = shutil.disk_usage(there).free
    except OSError as error:
        full = error.errno in DISK_FULL
        reason = f"{label} cannot be written: {error.strerror or error}"
        remedy = "free some space" if full else f"make {there} writable"
        return problem(check, reason, remedy=f"{remedy}, or choose {elsewhere}")
    text = f"{label}, {size_text(free)} free, {_WRITTEN / seconds / 1e6:,.0f} MB/s"
    if lock_failure:
        remedy = f"choose {elsewhere}, on a file system with locks"
        return problem(check, f"{label} cannot be locked: {lock_failure}", remedy=remedy)
    if free < _TOO_LITTLE:
        return problem(check, text, remedy=f"free some space, or choose {elsewhere}")
    if free < _LITTLE:
        return warning(check, text, remedy=f"free some space, or choose {elsewhere}")
    if _WRITTEN / seconds < _SLOW:
        return warning(check, text, remedy=f"choose {elsewhere}, on a faster disk")
    return ok(check, text)


def existing(path: Path) -> Path:
    """Return ``path``, or the nearest of the directories above it that exists."""
    whole = path.expanduser().absolute()
    return next(one for one in (whole, *whole.parents) if os.path.lexists(one))


def network_file_system(path: Path) -> str:
    """Return the type of the file system of ``path`` if it is on the network, else nothing."""
    import psutil

    best = ("", "")
    for partition in psutil.disk_partitions(all=True):
        mount = partition.mountpoint
        if path.is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, partition.fstype)
    return best[1] if best[1].lower() in _NETWORK else ""


def _written(directory: Path, *, locks: bool) -> tuple[float, str]:
    """Return how long the write took, and why the file cannot be locked, if so."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".forge-doctor-") as file:
        lock_failure = ""
        if locks:
            try:
                lock_file(file)
            except OSError as error:
                lock_failure = error.strerror or str(error)
        data = os.urandom(_WRITTEN)  # some file systems leave zeros out
        start = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return max(1e-6, time.perf_counter() - start), lock_failure
