"""Writing files so that a reader, or a crash at any instant, never sees half of one."""

from __future__ import annotations

import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any, BinaryIO

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_remedy(error: OSError, place: str) -> str:
    """Return what to do when ``place`` could not be written: a full disk is not a permission."""
    return "free some space there" if error.errno in DISK_FULL else f"make {place} writable"


"""Error numbers of a disk, a quota or a limit that takes no more."""


OPEN_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""For :func:`os.open`: no child process gets the file, and bytes stay what they are."""


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace ``path`` with ``text`` in one step.

    Args:
        path: the file; its directory must exist.
        text: the new content.
        durable: also force it to the disk, so that it survives a power cut.
    """
    write_bytes(path, text.encode(), durable=durable)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace ``path`` with ``data`` in one step; see :func:`write_text`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace ``path`` with ``value`` as indented JSON; see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n", durable=durable)


def append_line(file: BinaryIO, line: bytes) -> None:
    """Append ``line`` to an unbuffered ``file``: all of it, or nothing when the disk is full.

    Raises:
        OSError: the disk does not take it.
    """
    written = 0
    try:
        while written < len(line):
            written += file.write(line[written:])
    except OSError:
        if written:
            file.truncate(os.fstat(file.fileno()).st_size - written)
        raise


def sync_directory(path: Path) -> None:
    """Force a directory's entries to the disk; Windows opens no directory, and does so itself."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
