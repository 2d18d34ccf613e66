"""The rows of the table of runs, and which of them changed since somebody looked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.errors import RunError
from llmforge.insight.summary import summarize
from llmforge.redaction import redact
from llmforge.rundir import RunDirectory, RunEntry, entry_of, list_runs

Row = dict[str, Any]

_FRESH_SECONDS = 1.0
"""Looks that follow each other within this time are one."""


def read_rows(root: Path) -> list[Row]:
    """Return every run below ``root`` as plain values, in order of id.

    Times are in seconds since the epoch, losses in nats per token; ``metrics`` and ``recipe``
    hold what is known by name, of the recipe what the run's identity covers.
    """
    now = time.time()
    return [_row(entry, now) for entry in list_runs(root)]


def find_entry(root: Path, run_id: str) -> RunEntry:
    """Return the run of exactly this id.

    Raises:
        RunError: there is none; nothing outside of ``root`` is ever looked at.
    """
    if not run_id or run_id.startswith(".") or set(run_id) & set("/\\\0"):
        raise RunError(f"'{run_id[:100]}' is no id of a run")
    entry = entry_of(RunDirectory(root / run_id))
    if entry.state == "unreadable" and not entry.directory.record.exists():
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
        self._read = float("-inf")
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
            if time.monotonic() - self._read >= _FRESH_SECONDS:
                self._refresh(read_rows(self._root))
                self._read = time.monotonic()
            if not self._first < since <= self._version:
                return Changes(self._version, list(self._rows.values()), [], True)
            changed = [run for run, version in self._changed.items() if version > since]
            rows = [self._rows[run] for run in changed if run in self._rows]
            gone = [run for run in changed if run not in self._rows]
            return Changes(self._version, rows, gone, False)

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


def _row(entry: RunEntry, now: float) -> Row:
    run, record = summarize(entry, now=now), entry.record
    return {
        "id": run.id,
        "name": record.name,
        "state": run.state,
        "step": run.step,
        "total_steps": run.total_steps,
        "loss": run.best_loss,
        "perplexity": run.perplexity,
        "started": run.started or None,
        "ended": run.ended,
        "duration": run.duration,
        "profile": record.profile,
        "tags": record.tags,
        "exit_reason": redact(entry.problem or record.exit_reason),
        "metrics": _numbers(record.metrics),
        "recipe": record.identity.get("keys", {}),
    }


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
