"""What the index keeps of a run: read from its files, written into the tables."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from struct import pack
from typing import Any, NamedTuple

from llmforge.insight.flat_recipe import Section, flat, read_sections, sections_of
from llmforge.insight.summary import summarize
from llmforge.rundir import RunDirectory, RunEntry, entry_of
from llmforge.rundir.layout import ARCHIVE, completion_path


class Stamp(NamedTuple):
    """What tells that a file was not written since: times in nanoseconds, size in bytes."""

    mtime: int
    size: int
    inode: int


NO_STAMP = Stamp(0, -1, 0)


def stamp(path: str | Path) -> Stamp:
    """Return the stamp of a file, :data:`NO_STAMP` when there is none to look at."""
    try:
        found = os.stat(path)  # noqa: PTH116 - for a hundred thousand files
    except OSError:
        return NO_STAMP
    return Stamp(found.st_mtime_ns, found.st_size, found.st_ino)


def stamped_path(root: Path, run_id: str, *, gone: bool) -> str:
    """Return the file that is the truth about a run: its record, else its completion."""
    if gone:
        directory = RunDirectory(root / run_id)
        archived = root.name == ARCHIVE
        return str(directory.completion if archived else completion_path(root, run_id))
    return f"{root}/{run_id}/run.json"


def as_key(run_id: str) -> str | bytes:
    """Return an id as the database holds it: bytes for a name that is no text."""
    try:
        run_id.encode()
    except UnicodeEncodeError:
        return os.fsencode(run_id)
    return run_id


def as_id(key: str | bytes) -> str:
    """Return the id that :func:`as_key` made ``key`` of."""
    return os.fsdecode(key) if isinstance(key, bytes) else key


class Writer:
    """Reads runs and writes what the index keeps of them; to be used within a transaction.

    It remembers which names and sections it wrote, so a transaction that is rolled back ends it.
    """

    def __init__(self, connection: sqlite3.Connection, root: Path) -> None:
        self._connection = connection
        self._root = root
        self._names: set[tuple[str, str]] = set()
        self._sections: set[int] = set()

    def refresh(self, run_id: str, folder: int | None) -> None:
        """Read a run and write it; one that is no more is taken out.

        Args:
            run_id: of the run, or the name of a folder that may be none.
            folder: inode of its directory, None when it has none.
        """
        seen = stamp(stamped_path(self._root, run_id, gone=False))
        if seen is NO_STAMP:
            seen = stamp(stamped_path(self._root, run_id, gone=True))
        if seen is not NO_STAMP or (folder is not None and self._root.name == ARCHIVE):
            entry = entry_of(RunDirectory(self._root / run_id))
            number = self._write(run_id, {"folder": folder, **seen._asdict(), **_facts(entry)})
            self._write_metrics(number, entry)
            self._write_recipe(number, [] if entry.problem else _recipe(entry))
        elif folder is not None:
            nothing = {"folder": folder, **seen._asdict(), "is_run": False, "live": True}
            self._write(run_id, nothing)
        else:
            self._delete(run_id)

    def _write(self, run_id: str, values: Mapping[str, Any]) -> int:
        names = list(values)
        changes = ", ".join(f"{name} = excluded.{name}" for name in names)
        statement = (
            f"INSERT INTO runs (id, {', '.join(names)}) VALUES (?{', ?' * len(names)}) "
            f"ON CONFLICT (id) DO UPDATE SET {changes} RETURNING number"
        )
        row = [as_key(run_id), *map(_storable, values.values())]
        return int(self._connection.execute(statement, row).fetchall()[0][0])

    def _delete(self, run_id: str) -> None:
        found = self._connection.execute("SELECT number FROM runs WHERE id = ?", (as_key(run_id),))
        for number in found.fetchall():
            for table in ("runs", "metrics", "recipes"):
                self._connection.execute(f"DELETE FROM {table} WHERE number = ?", number)

    def _write_metrics(self, number: int, entry: RunEntry) -> None:
        metrics = entry.record.metrics
        body = json.dumps(_finite(metrics), default=str)
        self._connection.execute("REPLACE INTO metrics VALUES (?, ?)", (number, body))
        best = _mapping(metrics.get("best")).get("metric")
        usable = [name for name, value in metrics.items() if isinstance(value, int | float | str)]
        self._write_names("metric", [*usable, *([f"best/{best}"] if best else [])])

    def _write_recipe(self, number: int, sections: Sequence[Section]) -> None:
        """Write a recipe as the hashes of its sections, which it shares with many runs."""
        hashes = pack(f"<{len(sections)}q", *(section.hash for section in sections))
        self._connection.execute("REPLACE INTO recipes VALUES (?, ?)", (number, hashes))
        for section in sections:
            if section.hash not in self._sections:
                self._sections.add(section.hash)
                self._connection.execute(
                    "INSERT OR IGNORE INTO sections VALUES (?, ?, ?)",
                    (section.hash, _storable(section.name), section.body),
                )
                self._write_names("recipe", section.values)

    def _write_names(self, kind: str, names: Iterable[str]) -> None:
        new = {(kind, name) for name in names} - self._names
        if new:
            self._names |= new
            rows = [(kind, _storable(name)) for _, name in new]
            self._connection.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", rows)


def _facts(entry: RunEntry) -> dict[str, Any]:
    run, record = summarize(entry), entry.record
    best = _mapping(record.metrics.get("best"))
    beat = record.heartbeat
    running = entry.state == "running"
    return {
        "is_run": True,
        "live": record.state == "running",
        "state": entry.state,
        "name": record.name,
        "step": record.step,
        "total_steps": record.total_steps,
        "loss": run.best_loss,
        "best_metric": best.get("metric"),
        "best_value": _number(best.get("value")),
        "best_step": best.get("step"),
        "created": record.created or None,
        "started": record.started or None,
        "ended": run.ended,
        # Of a running one: how long it took before this start.
        "took": float(record.goodput.get("wall_seconds", 0.0)) if running else run.duration,
        "attempt": record.attempt,
        "restarts": record.restarts,
        "profile": record.profile,
        "tags": json.dumps(record.tags),
        "note": entry.note,
        "host": beat.get("host"),
        "boot": beat.get("boot_id"),
        "beat": beat.get("time"),
        "gone": entry.gone,
        "exit_reason": record.exit_reason,
        "problem": entry.problem,
    }


def _recipe(entry: RunEntry) -> list[Section]:
    """Return the recipe of a run; of one without the file, the keys of its identity."""
    try:
        sections = read_sections(entry.directory.recipe)
    except (OSError, ValueError):
        sections = []
    return sections or list(sections_of(dict(flat(_mapping(entry.record.identity.get("keys"))))))


def _finite(value: Any) -> Any:
    """Return ``value`` with NaN and infinities as texts, as JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if value is None or isinstance(value, int | float):
        return value
    return json.dumps(value, default=str)


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and math.isfinite(value) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
