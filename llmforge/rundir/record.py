"""``run.json``: what a run is, which state it is in, and that its process is alive."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from llmforge.errors import RunError
from llmforge.run_root import root_option
from llmforge.rundir.atomic import write_json
from llmforge.rundir.changes import mark_changed
from llmforge.rundir.layout import RunDirectory
from llmforge.rundir.lock import is_locked
from llmforge.rundir.stored_values import in_range, wrong_value

FORMAT_VERSION = 1
HEARTBEAT_SECONDS = 5.0
HEARTBEAT_STALE_SECONDS = 60.0

State = Literal["running", "completed", "early-stopped", "pruned", "interrupted", "failed"]
FINISHED: tuple[str, ...] = ("completed", "early-stopped")


@dataclass
class RunRecord:
    """The content of ``run.json``.

    ``name`` is the display name, fixed at the first start. ``attempt`` counts fresh starts of
    the id (``forge runs clear`` begins the next), ``restarts`` the processes that worked on this
    attempt. ``identity`` holds the hash and the keys it covers, ``resolved`` what ``auto`` values
    became, ``fingerprints`` those of data and tokenizer.
    Times are seconds since the epoch.
    """

    run_id: str
    name: str = ""
    attempt: int = 1
    restarts: int = 0
    state: str = "running"
    exit_reason: str = ""
    identity: dict[str, Any] = field(default_factory=dict)
    profile: str | None = None
    tags: list[str] = field(default_factory=list)
    created: float = 0.0
    started: float = 0.0
    ended: float | None = None
    step: int = 0
    total_steps: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    heartbeat: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    goodput: dict[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


_FIELDS = frozenset(item.name for item in dataclasses.fields(RunRecord))
_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("run_id", "name", "state", "exit_reason"), str),
    **dict.fromkeys(("attempt", "restarts", "step", "total_steps", "format_version"), int),
    **dict.fromkeys(("created", "started"), int | float),
    **dict.fromkeys(("identity", "metrics", "heartbeat", "provenance", "resolved"), dict),
    **dict.fromkeys(("fingerprints", "goodput"), dict),
    **dict.fromkeys(("tags", "notices"), list),
    "profile": str | None,
    "ended": int | float | None,
}


def read_record(directory: RunDirectory) -> RunRecord:
    """Read ``run.json``.

    Raises:
        RunError: it is missing, damaged, or of a newer format.
    """
    try:
        body = json.loads(directory.record.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{directory.path} holds no run.json, so it is not a run") from None
    except OSError as error:
        raise RunError(
            f"{directory.record} cannot be read: {error.strerror}",
            remedy="make it readable for the user who runs this command",
        ) from error
    except ValueError as error:
        raise _damaged(directory, str(error)) from error
    if not isinstance(body, dict) or "run_id" not in body:
        raise _damaged(directory, "it is no record of a run")
    version = body.get("format_version", 0)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise RunError(
            f"{directory.record} has format {version}, newer than this llmforge",
            remedy="upgrade llmforge",
        )
    if wrong := _wrong(body):
        raise _damaged(directory, wrong)
    return RunRecord(**{key: value for key, value in body.items() if key in _FIELDS})


def _wrong(body: Mapping[str, Any]) -> str:
    """Return what is not as this program writes it, as after an edit by hand; empty if nothing."""
    if found := wrong_value(body, _KINDS):
        return found
    moment = body.get("heartbeat", {}).get("time", 0.0)
    if not in_range(moment):
        return f"heartbeat.time is {moment!r:.60}"
    best = body.get("metrics", {}).get("best") or {}
    if not isinstance(best, dict) or not isinstance(best.get("step", 0), int | None):
        return f"metrics.best is {best!r:.60}"
    return ""


def _damaged(directory: RunDirectory, why: str) -> RunError:
    command = f"forge runs clear {directory.id}{root_option(directory.root)}"
    return RunError(
        f"{directory.record} cannot be read: {why}",
        remedy=f"'{command}' sets the run aside; its checkpoints stay usable",
    )


def write_record(directory: RunDirectory, record: RunRecord, *, durable: bool = True) -> None:
    """Write ``run.json`` in one step.

    A durable one is also marked as changed for the index of runs; a heartbeat is not, as the index
    looks at running runs by itself.
    """
    write_json(directory.record, dataclasses.asdict(record), durable=durable)
    if durable:
        mark_changed(directory.root, directory.id)


def current_state(directory: RunDirectory, record: RunRecord) -> str:
    """Return the state of a run; ``crashed`` for a running one whose process is gone."""
    if record.state != "running":
        return record.state
    beat = record.heartbeat
    if beat.get("host") == socket.gethostname():
        alive = is_locked(directory.root, record.run_id) and beat.get("boot_id") == boot_id()
    else:
        alive = time.time() - float(beat.get("time", 0.0)) < HEARTBEAT_STALE_SECONDS
    return "running" if alive else "crashed"


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return a name of this boot of the machine, empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Recorder:
    """Keeps ``run.json`` up to date; a thread of its own writes the heartbeat.

    The step loop only sets :attr:`step`; nothing it does waits for the disk.
    """

    def __init__(self, directory: RunDirectory, record: RunRecord) -> None:
        self.record = record
        self.step = record.step
        self._directory = directory
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="forge-heartbeat", daemon=True)

    def start(self) -> None:
        """Write the record and begin the heartbeat."""
        self.update()
        self._thread.start()

    def update(self, *, durable: bool = True, **changes: Any) -> None:
        """Change fields of the record and write it."""
        with self._lock:
            for name, value in changes.items():
                setattr(self.record, name, value)
            self.record.step = self.step
            self.record.heartbeat = {
                "time": time.time(),
                "host": socket.gethostname(),
                "boot_id": boot_id(),
                "pid": os.getpid(),
            }
            write_record(self._directory, self.record, durable=durable)

    def notice(self, text: str) -> None:
        """Keep a notice in the record, once."""
        if text not in self.record.notices:
            self.update(notices=[*self.record.notices, text])

    def beat_soon(self) -> None:
        """Have the heartbeat's thread write the record now: what is in it outlives a kill."""
        self._due.set()

    def stop(self) -> None:
        """End the heartbeat; the record stays as it was last written."""
        self._stopped.set()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join()

    def _beat(self) -> None:
        while True:
            self._due.wait(HEARTBEAT_SECONDS)
            if self._stopped.is_set():
                return
            self._due.clear()
            try:
                self.update(durable=False)
            except OSError:
                # A full disk must not end the run from here: the next checkpoint reports it.
                continue
