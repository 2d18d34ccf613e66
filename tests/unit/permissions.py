"""A test's thread without the powers of root, so that what ``chmod`` forbids is forbidden."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_VERSION = 0x20080522
_POWERS = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


@contextlib.contextmanager
def forbidden(path: Path, mode: int = 0) -> Iterator[None]:
    """Give ``path`` the permissions ``mode`` for the time being, which bind root, too."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with _without_powers():
            yield
    finally:
        path.chmod(before)


@contextlib.contextmanager
def _without_powers() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root cannot be kept out of a file here")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    powers = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32
    if libc.capget(header, powers):
        pytest.skip("capabilities cannot be read here")
    all_of_them = powers[0]
    powers[0] = all_of_them & ~_POWERS
    if libc.capset(header, powers):
        pytest.skip("capabilities cannot be dropped here")
    try:
        yield
    finally:
        powers[0] = all_of_them
        libc.capset(header, powers)
