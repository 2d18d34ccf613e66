"""Files that the system refuses, wherever a command meets one: one message, no traceback."""

from __future__ import annotations

import errno
import os

from llmforge.errors import ForgeError, plain_reason

_REMEDIES = {
    errno.EACCES: "make it accessible for the user who runs this command",
    errno.EPERM: "make it accessible for the user who runs this command",
    errno.EROFS: "it is on a file system that is read-only: choose another place",
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EIO: "the disk or its network does not answer as it should: see the system's log",
    errno.ESTALE: "the network file system has lost it: try again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
}


def as_refusal(error: OSError) -> ForgeError | None:
    """Return what to tell a user of an error no command foresaw; None for one of the program's own.

    What commands foresee has a better message than this. A file that is simply not there, and an
    error without the name of a file, are not refusals.
    """
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None or not isinstance(error.filename, str | bytes | os.PathLike):
        return None
    place = os.fsdecode(error.filename)
    return ForgeError(f"{place}: {error.strerror or plain_reason(error)}", remedy=remedy)
