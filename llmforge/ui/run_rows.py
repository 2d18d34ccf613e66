"""The rows of the table of runs, and which of them changed since somebody looked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.errors import RunError
from llmforge.insight.runs_index import RunsTable, runs_table
from llmforge.insight.runs_index.database import database_path
from llmforge.redaction import redact
from llmforge.rundir import RunDirectory, RunEntry, entry_of, has_record

Row = dict[str, Any]

_FRESH_SECONDS = 1.0
"""Looks that follow each other within this time are one."""

_MOST_SHARE = 0.1
"""Of the time spent in looks: a machine that is busy with training is asked less often."""

_COLUMNS = [
    *("id", "name", "state", "step", "total_steps", "loss", "perplexity", "started", "ended"),
    *("duration", "profile", "tags", "exit_reason", "metrics", "recipe"),
]


def read_rows(table: RunsTable) -> list[Row]:
    """Return every run of the index as plain values, in order of id.

    Times are in seconds since the epoch, losses in nats per token. ``metrics`` has the numbers
    among a run's metrics, ``recipe`` the values of those keys in which runs differ.
    """
    rows = table.rows(table.select(sort="id"), _COLUMNS)
    differing = _differing([row["recipe"] for row in rows])
    for row in rows:
        row["exit_reason"] = redact(row["exit_reason"] or "")
        row["metrics"] = _numbers(row["metrics"])
        row["recipe"] = {key: row["recipe"][key] for key in differing if key in row["recipe"]}
    return rows


def matching_ids(root: Path, where: str) -> list[str]:
    """Return the ids of the runs that an expression holds for.

    Raises:
        UsageError: it is none, or has a name that no run has.
    """
    return [row["id"] for row in runs_table(root, where=where, columns=["id"])]


def find_entry(root: Path, run_id: str) -> RunEntry:
    """Return the run of exactly this id.

    Raises:
        RunError: there is none; nothing outside of ``root`` is ever looked at.
    """
    if not run_id or run_id.startswith(".") or set(run_id) & set("/\\\0"):
        raise RunError(f"'{run_id[:100]}' is no id of a run")
    entry = entry_of(RunDirectory(root / run_id))
    if entry.state == "unreadable" and not has_record(entry.directory):
        raise RunError(f"no run '{run_id[:200]}' in {root}")
    return entry


@dataclass(frozen=True)
class Changes:
    """What is different from an earlier version of the table.

    Attributes:
        version: of the table now.
        rows: that changed or are new.
        removed: ids of runs that are gone.
        whole: ``rows`` are all there are, as the earlier version is not known here.
    """

    version: int
    rows: list[Row]
    removed: list[str]
    whole: bool


class RunTable:
    """The table as it is now; for several threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._next_look = float("-inf")
        self._stamp: tuple[int, int, int] | None = None
        self._first = self._version = int(1000 * time.time())
        self._rows: dict[str, Row] = {}
        self._changed: dict[str, int] = {}
        """The version in which each run changed last; those that are gone too."""

    def changes(self, since: int = 0) -> Changes:
        """Return what changed after the version ``since``, which another process may have told.

        Raises:
            RunError: the root cannot be read.
        """
        with self._lock:
            begin = time.monotonic()
            if begin >= self._next_look:
                self._look()
                now = time.monotonic()
                self._next_look = now + max(_FRESH_SECONDS, (now - begin) / _MOST_SHARE)
            if not self._first < since <= self._version:
                return Changes(self._version, list(self._rows.values()), [], True)
            changed = [run for run, version in self._changed.items() if version > since]
            rows = [self._rows[run] for run in changed if run in self._rows]
            gone = [run for run in changed if run not in self._rows]
            return Changes(self._version, rows, gone, False)

    def _look(self) -> None:
        """Bring the index up to date, and read it if that changed it."""
        with RunsTable(self._root) as table:
            stamp = _stamp(database_path(self._root))
            if stamp is None or stamp != self._stamp:
                self._refresh(read_rows(table))
            self._stamp = stamp

    def _refresh(self, rows: Iterable[Row]) -> None:
        found = {row["id"]: row for row in rows}
        differing = [
            run for run, row in found.items() if _lasting(row) != _lasting(self._rows.get(run))
        ]
        gone = [run for run in self._rows if run not in found]
        if differing or gone or self._version == self._first:
            self._version += 1
            self._changed |= dict.fromkeys([*differing, *gone], self._version)
        self._rows = found


def _lasting(row: Row | None) -> Row | None:
    """Return a row without what changes by the clock alone."""
    return None if row is None else {**row, "duration": None}


def _differing(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that not all recipes have with the same value."""
    first: dict[str, Any] = {}
    count: dict[str, int] = {}
    differing: dict[str, None] = {}
    for recipe in recipes:
        for key, value in recipe.items():
            count[key] = count.get(key, 0) + 1
            if first.setdefault(key, value) != value:
                differing[key] = None
    return [key for key in first if key in differing or count[key] < len(recipes)]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with a file; None where there is none, as for an index in memory."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
