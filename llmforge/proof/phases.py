"""What a training process is doing, told by what it leaves on the disk.

The process itself is the ordinary ``forge train`` and knows nothing of being watched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from llmforge.courier.upload_queue import BEGUN
from llmforge.events import Event, MetricsLogged, RunEnded, RunStarted, decode
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import read_uploads

STARTING = "starting"
STEPPING = "stepping"
EVALUATING = "evaluating"
SAVING = "saving"
UPLOADING = "uploading"
FINISHING = "finishing"

PHASES = (STARTING, STEPPING, EVALUATING, SAVING, UPLOADING, FINISHING)
"""In the order in which they follow each other around a step."""

Phases = Mapping[str, int]
"""What a process is doing, and the step each is about: it saves while it steps on."""

_EVALUATING = re.compile(r"evaluating at step (\d+)$")
_EVALUATED = re.compile(r"evaluation at step (\d+):")
_GENERATING = re.compile(r"generating samples$")
_TEMPORARY = re.compile(r"\.tmp-step-(\d+)-\d+")


class Watch:
    """Looks at a run from the start of one process on.

    Args:
        directory: the run, which may not exist yet.
        log: the run's log file.

    Attributes:
        started: whether this start has got as far as its first step.
        step: the newest step that has a row.
        resumed_from: the step this start resumed from; None before it is known, and at a beginning.
    """

    def __init__(self, directory: RunDirectory, *, log: Path) -> None:
        self.step = 0
        self.resumed_from: int | None = None
        self._directory = directory
        self._journal = _Tail(directory.journal)
        self._log = _Tail(log)
        self._began = time.time()
        self.started = False
        self._ended = self._finishing = False
        self._last_step: int | None = None
        self._evaluating: int | None = None
        self._uploads: tuple[int, dict[int, float]] = (0, {})

    def look(self) -> Phases:
        """Return what the process is doing now; nothing once it has ended its run."""
        for line in self._log.lines():
            self._take_line(line)
        for line in self._journal.lines():
            self._take_event(decode(line))
        if self._ended:
            return {}
        if not self.started:
            return {STARTING: 0}
        found: dict[str, int] = {}
        if self._finishing or (self._last_step is not None and self.step >= self._last_step):
            found[FINISHING] = self.step
        elif self._evaluating is not None:
            found[EVALUATING] = self._evaluating
        else:
            found[STEPPING] = self.step
        for phase, steps in ((SAVING, self._saving()), (UPLOADING, self._uploading())):
            if steps:
                found[phase] = max(steps)
        return found

    def _take_line(self, line: str) -> None:
        if match := _EVALUATING.search(line):
            self._evaluating = int(match[1])
        elif _EVALUATED.search(line):
            self._evaluating = None
        elif _GENERATING.search(line):
            self._finishing = True

    def _take_event(self, event: Event | None) -> None:
        if isinstance(event, RunStarted):
            self.started = True
            self.resumed_from = event.resumed_from
            self.step = event.resumed_from or 0
            self._last_step = event.facts.get("total_steps")
        elif isinstance(event, MetricsLogged) and "train/loss" in event.values:
            self.step = max(self.step, event.step)
        elif isinstance(event, RunEnded):
            self._ended = True

    def _saving(self) -> list[int]:
        try:
            names = os.listdir(self._directory.checkpoints)  # noqa: PTH208  # many times a second
        except FileNotFoundError:
            return []
        return [int(match[1]) for match in map(_TEMPORARY.fullmatch, names) if match]

    def _uploading(self) -> list[int]:
        """Return the steps whose uploads this start has begun and not ended."""
        try:
            changed = self._directory.uploads.stat().st_mtime_ns
        except FileNotFoundError:
            return []
        if changed != self._uploads[0]:
            found = read_uploads(self._directory)
            begun = {step: item.updated for step, item in found.items() if item.state in BEGUN}
            self._uploads = (changed, begun)
        return [step for step, updated in self._uploads[1].items() if updated >= self._began]


class _Tail:
    """Whole lines that are appended to a file from now on; it may not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        content = path.read_bytes() if path.exists() else b""
        self._offset = content.rfind(b"\n") + 1  # a torn last line is cut off by the next start

    def lines(self) -> list[str]:
        try:
            if self._path.stat().st_size <= self._offset:
                return []
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace").splitlines()
