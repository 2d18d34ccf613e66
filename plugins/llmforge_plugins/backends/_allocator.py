"""Keeping the C allocator from handing memory back to the kernel in every step."""

from __future__ import annotations

import ctypes
import logging
import platform
from functools import cache

_log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD = -1  # numbers of mallopt(3)
_M_MMAP_THRESHOLD = -3
_NEVER_TRIM = 2**31 - 1
_THRESHOLDS = (2**30, 2**25)  # before glibc 2.35 values above 32 MiB are refused


@cache
def keep_freed_memory() -> bool:
    """Raise glibc's thresholds so that freed tensors stay in the process; return whether it did.

    By default glibc maps every block above 32 MiB at most afresh and unmaps it when freed, and
    gives the top of its heap back. A training step frees and takes the same tensors again and
    again, and the kernel then clears their pages each time: on two cores that took half of a
    bf16 step. With the thresholds raised, freed memory is reused. The peak stays the same.
    """
    if platform.libc_ver()[0] != "glibc":
        _log.debug("allocator thresholds left alone: not glibc")
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError) as error:
        _log.debug("allocator thresholds left alone: %s", error)
        return False
    raised = any(mallopt(_M_MMAP_THRESHOLD, value) for value in _THRESHOLDS)
    trimmed = bool(mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM))
    if not (raised and trimmed):
        _log.debug("mallopt refused: mmap threshold %s, trim threshold %s", raised, trimmed)
    return raised and trimmed
