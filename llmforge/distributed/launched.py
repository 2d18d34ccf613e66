"""A process that ``forge train --nproc-per-node`` has started: how it ends, and with whom."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from llmforge.errors import EXIT_INTERRUPTED, EXIT_LOCKED, EXIT_OK, EXIT_USAGE
from llmforge.streams import drain

ENDINGS = "FORGE_LAUNCHER_ENDINGS"
"""Directory in which the processes of a launcher leave their exit codes, a file for each rank."""

CODE = "code-"
"""Prefix of a file with an exit code; its rank follows."""

LAUNCHER = "FORGE_LAUNCHER_PID"
"""Process id of the launcher."""

LOST = "lost"
"""File among the endings in which a process says that it lost the others."""

_CONNECTED = "llmforge.distributed.process_group"
_TORCHRUN = "TORCHELASTIC_RUN_ID"
_ORDERLY = frozenset({EXIT_OK, EXIT_USAGE, EXIT_LOCKED, EXIT_INTERRUPTED})
_PR_SET_PDEATHSIG = 1  # of prctl(2)
_LOOK_SECONDS = 1.0


def under_launcher() -> bool:
    """Return whether llmforge's own launcher started this process."""
    return ENDINGS in os.environ


def leave_word(text: str) -> bool:
    """Let the launcher say ``text`` if it knows no better; return whether there is one."""
    folder = os.environ.get(ENDINGS)
    if folder is None:
        return False
    (Path(folder) / LOST).write_text(text, encoding="utf-8")
    return True


def end_code(code: int) -> int:
    """Return what this process must exit with, for how it ended.

    A launcher starts processes again that failed. One that was stopped, or must not continue at
    all, is no failure to it: it leaves its code for the launcher and exits with 0.
    """
    folder = os.environ.get(ENDINGS)
    if folder is None or code not in _ORDERLY:
        return code
    name = f"{CODE}{os.environ.get('RANK', '0')}"
    (Path(folder) / name).write_text(str(code), encoding="ascii")
    return EXIT_OK


def end_process(code: int) -> NoReturn:
    """End this process with ``code``, after what is registered with :mod:`atexit`.

    One that was connected to others ends without the interpreter's taking itself apart: a thread
    of gloo that still has a tensor to give back would abort it in the middle of that, and a run
    that is complete would be reported as killed (pytorch/pytorch#190489).
    """
    if _CONNECTED not in sys.modules:
        sys.exit(code)
    atexit._run_exitfuncs()
    drain()
    os._exit(code)


def die_with_launcher() -> None:
    """Have this process stopped by SIGTERM when the torchrun launcher that started it is gone.

    Does nothing in a process that none has started.
    """
    if _TORCHRUN not in os.environ:
        return
    parent = int(os.environ.get(LAUNCHER, os.getppid()))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) == 0:
            if os.getppid() != parent:  # it was gone before this could be asked for
                os.kill(os.getpid(), signal.SIGTERM)
            return
    threading.Thread(target=_watch, args=(parent,), name="launcher-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
