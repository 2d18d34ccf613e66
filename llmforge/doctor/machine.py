"""The machine itself: Python, processors and memory that this process may use, limits."""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Iterator

from llmforge.doctor.finding import Finding, ok, problem, warning
from llmforge.doctor.host import Host
from llmforge.progress import size_text

_GIB = 1 << 30

_LITTLE_MEMORY = 2 * _GIB
_LITTLE_SHARED = _GIB  # containers have 64 MiB unless told otherwise
_FEW_FILES = 1024
_TOO_FEW_FILES = 128  # a process with torch, a tracker and an upload holds about a hundred


def check_machine(host: Host) -> Iterator[Finding]:
    """Yield what is found of Python, processors, memory and limits."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield ok("machine.python", f"Python {platform.python_version()} on {system}")
    yield _cores(host)
    yield _memory(host)
    yield from _open_files()
    yield from _shared_memory(host)


def usable_cores(host: Host) -> int:
    """Return how many processors this process may use: of the machine, its mask and its quota."""
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = host.cpu_quota()
    return mask if quota is None else max(1, min(mask, math.ceil(quota)))


def _cores(host: Host) -> Finding:
    usable, there = usable_cores(host), os.cpu_count() or 1
    name = host.cpu_name() or platform.processor()
    text = f"{usable} of {there} cores" if usable < there else f"{there} cores"
    return ok("machine.cores", f"{text}{f' ({name})' if name else ''}")


def _memory(host: Host) -> Finding:
    import psutil

    found, limit = psutil.virtual_memory(), host.memory_limit()
    total = found.total if limit is None else min(limit, found.total)
    free = min(found.available, total)
    text = f"{size_text(total)} memory, {size_text(free)} free"
    text += " (limit of the container)" if total < found.total else ""
    if free < _LITTLE_MEMORY:
        return warning(
            "machine.memory",
            text,
            remedy="end what else runs, raise the container's limit, or train a small model",
        )
    return ok("machine.memory", text)


def _open_files() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        yield ok("machine.files", "no limit of open files")
        return
    text = f"a process may open {soft:,} files"
    possible = 4 * _FEW_FILES if hard == resource.RLIM_INFINITY else min(hard, 4 * _FEW_FILES)
    remedy = f"ulimit -n {possible}"
    if possible < _FEW_FILES:
        remedy = f"raise the hard limit, {hard:,}, too: in /etc/security/limits.conf or the service"
    if soft < _TOO_FEW_FILES:
        yield problem("machine.files", text, remedy=remedy)
    elif soft < _FEW_FILES:
        yield warning("machine.files", text, remedy=remedy)
    else:
        yield ok("machine.files", text)


def _shared_memory(host: Host) -> Iterator[Finding]:
    folder = host.root / "dev/shm"
    if not folder.is_dir():
        return
    total = shutil.disk_usage(folder).total
    text = f"{size_text(total)} shared memory (/dev/shm)"
    if total < _LITTLE_SHARED:
        yield warning(
            "machine.shm",
            f"{text}: little for several processes, which exchange gradients through it",
            remedy="docker run --shm-size=8g, or mount -o remount,size=8g /dev/shm",
        )
    else:
        yield ok("machine.shm", text)
