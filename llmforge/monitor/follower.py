"""Following one run: every look reads what is new in its directory, and nothing a second time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from llmforge.courier.cursor import Cursor, tracker_cursor
from llmforge.errors import ForgeError
from llmforge.insight.compare import read_recipe
from llmforge.insight.inventory import (
    CheckpointInfo,
    checkpoints_of,
    tracker_names,
)
from llmforge.monitor.appended_lines import CountedLines, last_lines
from llmforge.monitor.metrics import TRAIN_LOSS, VAL_LOSS, Metrics
from llmforge.monitor.snapshot import Best, CheckpointAge, Happening, Points, Snapshot, Upload
from llmforge.recipe.schema import RunTable
from llmforge.rundir import RunDirectory, RunEntry, entry_of, has_record
from llmforge.rundir.last_row import last_row
from llmforge.rundir.next_command import next_command, why_ended
from llmforge.rundir.uploads import UploadRecord, read_uploads

LOG_LINES = 12
_MOST_HAPPENINGS = 20
_Value = TypeVar("_Value")


class _Kept(Generic[_Value]):
    """A value read from a file or folder, read again only when that has changed."""

    def __init__(self, read: Callable[[], _Value]) -> None:
        self._read = read
        self._stamp: tuple[int, int, int] | None = None
        self._value: _Value | None = None

    def get(self, path: Path) -> _Value:
        """Return the value of ``path`` as it is now."""
        try:
            found = path.stat()
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError:
            stamp = (0, 0, 0)
        if stamp != self._stamp or self._value is None:
            self._value, self._stamp = self._read(), stamp
        return self._value


class RunFollower:
    """Watches one run directory.

    Args:
        directory: the run; it may appear later.
        place: what the snapshots call its directory; its path when empty.
    """

    def __init__(self, directory: RunDirectory, *, place: str = "") -> None:
        self.directory = directory
        self._place = place or str(directory.path)
        self._metrics = Metrics(directory.metrics)
        self._recipe = _Kept(self._read_recipe)
        self._timing = _Kept(lambda: last_row(directory.timing))
        self._system = _Kept(lambda: last_row(directory.system))
        self._log: _Kept[list[str]] = _Kept(lambda: last_lines(self.log_file, LOG_LINES))
        self._checkpoints = _Kept(self._read_checkpoints)
        self._uploads = _Kept(lambda: read_uploads(directory))
        self._waiting: dict[str, tuple[_Kept[int], CountedLines]] = {}
        self._happenings: list[Happening] = []
        self._before: Snapshot | None = None
        self._curves: tuple[int, Mapping[str, Points]] = (-1, {})

    @property
    def log_file(self) -> Path:
        """The log of the run, under the name its recipe gives it."""
        default = RunTable.model_fields["log_file"].default
        run = self._recipe.get(self.directory.recipe).get("run") or {}
        return self.directory.path / str(run.get("log_file", default))

    def look(self) -> Snapshot:
        """Return how the run stands now."""
        now = time.time()
        if not has_record(self.directory):
            snapshot = self._absent(now)
        else:
            entry = self._entry()
            self._metrics.look()
            snapshot = self._snapshot(entry, now)
        self._note(snapshot)
        self._before = snapshot
        return snapshot

    def _entry(self) -> RunEntry:
        """Return the record of the run, and the state that it is in by now."""
        return entry_of(self.directory)

    def _absent(self, now: float) -> Snapshot:
        return Snapshot(
            id=self.directory.id,
            state="waiting",
            taken=now,
            directory=self._place,
            why="it is not there yet",
            happenings=tuple(self._happenings),
        )

    def _snapshot(self, entry: RunEntry, now: float) -> Snapshot:
        record, values = entry.record, self._metrics.values
        timing = self._timing.get(self.directory.timing)
        system = self._system.get(self.directory.system)
        running = entry.state == "running"
        if float(timing.get("time", 0.0)) < record.started:
            timing = {}  # of an earlier start
        beat = record.heartbeat.get("time")
        last, best = self._newest_checkpoints()
        stamp = system if float(system.get("time", 0.0)) >= record.started else {}
        return Snapshot(
            id=self.directory.id,
            name=record.name,
            directory=self._place,
            state=entry.state,
            why=why_ended(entry),
            next_command=self._next_command(entry),
            attempt=record.attempt,
            starts=record.restarts,
            step=record.step,
            total_steps=record.total_steps,
            epoch=_number(values.get("epoch")),
            taken=now,
            started=record.started or None,
            ended=None if running else record.ended,
            updated=max(_times(beat, timing.get("time")), default=None),
            eta_seconds=_left(timing, now) if running else None,
            tokens_per_second=_number(timing.get("tokens_per_second")),
            data_share=_number(timing.get("data_share")),
            lr=_number(values.get("lr")),
            train_loss=_number(values.get(TRAIN_LOSS)),
            val_loss=_number(values.get(VAL_LOSS)),
            best=_best(record.metrics.get("best")),
            process_memory_gb=_number(stamp.get("system/process_memory_gb")),
            gpu_memory_gb=_number(stamp.get("system/gpu_memory_gb")),
            gpu_percent=_number(stamp.get("system/gpu_percent")),
            last_checkpoint=last,
            best_checkpoint=best,
            uploads=self._upload_states(),
            pending=self._pending(),
            curves=self._points(),
            log=tuple(self._log.get(self.log_file)),
            happenings=tuple(self._happenings),
        )

    def _next_command(self, entry: RunEntry) -> str:
        try:
            return next_command(entry)
        except ForgeError:  # its completion is damaged; 'forge runs show' reports it
            return ""

    def _points(self) -> Mapping[str, Points]:
        if self._curves[0] != self._metrics.version:
            points = {name: curve.points() for name, curve in self._metrics.curves.items() if curve}
            self._curves = (self._metrics.version, points)
        return self._curves[1]

    def _newest_checkpoints(self) -> tuple[CheckpointAge | None, CheckpointAge | None]:
        found = self._checkpoints.get(self.directory.checkpoints)
        last = [info for info in found if info.is_last]
        best = [info for info in found if info.is_best]
        return _age(last), _age(best)

    def _read_checkpoints(self) -> list[CheckpointInfo]:
        try:
            return checkpoints_of(self.directory)
        except (ForgeError, OSError):  # one may vanish while it is looked at
            return []

    def _upload_states(self) -> tuple[Upload, ...]:
        records = self._uploads.get(self.directory.uploads)
        return tuple(_upload(records[step]) for step in sorted(records))

    def _pending(self) -> dict[str, int]:
        """Return how many events wait for each tracker that lacks some."""
        counts = {}
        for name in tracker_names(self._recipe.get(self.directory.recipe)):
            if name not in self._waiting:
                self._waiting[name] = (
                    _Kept(lambda name=name: _offset(self.directory, name)),  # type: ignore[misc]
                    CountedLines(self.directory.journal),
                )
            offset, journal = self._waiting[name]
            counts[name] = journal.behind(offset.get(tracker_cursor(self.directory, name)))
        return {name: count for name, count in counts.items() if count}

    def _read_recipe(self) -> dict[str, Any]:
        try:
            return read_recipe(self.directory)
        except ForgeError:  # it is not there yet, or damaged: then its defaults have to do
            return {}

    def _note(self, new: Snapshot) -> None:
        """Note what has changed since the last look."""
        old = self._before
        if old is None:
            return
        texts = []
        if old.state == "waiting" and new.state != "waiting":
            texts.append("it is there")
        elif new.attempt != old.attempt:
            texts.append(f"attempt {new.attempt} started")
        elif new.starts > old.starts:
            texts.append(f"resumed (start {new.starts})")
        if new.state != old.state and new.state not in ("running", "waiting"):
            texts.append(f"{new.state} at step {new.step:,}")
        self._happenings += [Happening(time=new.taken, text=text) for text in texts]
        del self._happenings[:-_MOST_HAPPENINGS]


def _age(found: list[CheckpointInfo]) -> CheckpointAge | None:
    if not found:
        return None
    info = found[-1]
    created = datetime.fromisoformat(info.created).timestamp() if info.created else 0.0
    return CheckpointAge(step=info.step, created=created)


def _upload(record: UploadRecord) -> Upload:
    return Upload(
        step=record.step,
        state=record.state,
        sent=record.sent,
        size=record.size,
        error=record.error if record.state == "failed" else "",
    )


def _left(timing: Mapping[str, Any], now: float) -> float | None:
    """Return the seconds that are left, by the last row and the time since then."""
    left = _number(timing.get("eta_seconds"))
    return None if left is None else max(0.0, left - (now - float(timing["time"])))


def _offset(directory: RunDirectory, tracker: str) -> int:
    try:
        return Cursor(tracker_cursor(directory, tracker)).offset
    except (OSError, ValueError, LookupError):
        return 0


def _best(found: Any) -> Best | None:
    try:
        return Best(metric=found["metric"], value=float(found["value"]), step=int(found["step"]))
    except (TypeError, LookupError, ValueError):
        return None


def _times(*found: Any) -> list[float]:
    return [float(item) for item in found if isinstance(item, int | float)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
