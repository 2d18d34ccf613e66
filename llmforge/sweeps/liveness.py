"""Who works on a trial, so that others can tell when that process is gone."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from llmforge.rundir.record import boot_id

_SAME_START_SECONDS = 2.0
"""Two readings of when a process began may differ by this much."""


def this_process() -> dict[str, Any]:
    """Return what names this process among all on all machines."""
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def is_gone(process: Mapping[str, Any]) -> bool | None:
    """Return whether a process has ended; None when that cannot be seen from here."""
    if process.get("machine") != _machine():
        return None
    try:
        found = psutil.Process(int(process["pid"]))
        began = found.create_time()
        ended = found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    return ended or abs(began - float(process["started"])) > _SAME_START_SECONDS


def _machine() -> str:
    """Return a name of this boot of this machine, and of the processes that can be seen from here.

    Containers on one machine share its boot but not its processes.
    """
    try:
        processes = Path("/proc/self/ns/pid").readlink()
    except OSError:
        processes = Path()
    return f"{socket.gethostname()} {boot_id()} {processes}"


def follow(stream: int) -> None:
    """Ask this process to stop, as SIGTERM does, once the other end of ``stream`` is closed."""

    def wait() -> None:
        while os.read(stream, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="forge-lifeline", daemon=True).start()
