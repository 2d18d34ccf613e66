"""Finding out which runs changed, without reading them all.

What is noticed, and when:

- Whatever llmforge does to a run, by the next look: a start or an end leaves a mark
  (:mod:`llmforge.rundir.changes`), and so do tags, notes and names; a run recorded as running is
  looked at every time, and so is whether its process lives.
- Runs copied in, removed, restored or replaced below the root, by the next look: they change the
  root's own modification time, and then its names and inodes are compared. Completed runs without
  a directory are found in the same way.
- Anything else, for example a ``run.json`` changed in an editor: each look compares modification
  time, size and inode of up to :data:`CHECKED` further runs, in turn. Below a root of no more
  runs than that every look sees every change; with 100,000 runs it takes up to twenty looks, or
  ``--refresh``, which compares them all.

A look at runs that did not change reads none of them and writes nothing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge.errors import RunError
from llmforge.insight.runs_index.database import in_memory
from llmforge.insight.runs_index.entries import (
    NO_STAMP,
    Stamp,
    Writer,
    as_id,
    stamp,
    stamped_path,
)
from llmforge.progress import Task, track
from llmforge.rundir import RunDirectory, RunRecord, current_state
from llmforge.rundir.changes import INDEX, mark_changed, marks_path
from llmforge.rundir.layout import completion_path

CHECKED = 5000
"""Runs that every look compares besides those that are likely to have changed."""
_CHECKED_SECONDS = 0.5
"""Time that may take, on a file system where looking at a file is slow."""

_BATCH = 2000
_SETTLED = 2_000_000_000
"""Nanoseconds after which a directory's modification time tells all: clocks of files are coarse."""

_COMPARED = "id, folder, mtime, size, inode, gone, live, state, host, boot, beat"
"""Columns that tell whether a run is as it was."""


class Refresh:
    """One look at the runs below a root, which brings an index up to date.

    Attributes:
        connection: the index; a private copy in memory if that of the root cannot be written.

    Args:
        connection: the index.
        root: the directory of all runs.
        thorough: compare every run with its files.
    """

    def __init__(
        self, connection: sqlite3.Connection, root: Path, *, thorough: bool = False
    ) -> None:
        self.connection = connection
        self._root = root
        self._thorough = thorough
        self._private = not connection.execute("PRAGMA database_list").fetchone()[2]

    def run(self) -> None:
        """Bring the index up to date.

        Raises:
            RunError: the root cannot be read.
        """
        facts = dict(self._query("SELECT name, value FROM facts"))
        times = {
            "root": _directory_time(self._root),
            "completed": _directory_time(_completed(self._root)),
        }
        settled = all(times.values()) and times == facts and not self._thorough
        same = bool(times["completed"]) and times["completed"] == facts.get("completed")
        changed = {} if settled else self._listed(completed=not same or self._thorough)
        marked = _marked(self._root)
        for run_id, folder in self._suspects(marked).items():
            changed.setdefault(run_id, folder)
        if changed or times != facts:
            self._write(changed, marked, times)

    def _listed(self, *, completed: bool) -> dict[str, int | None]:
        """Return the runs that came, went or are others by the listings of the directories.

        Args:
            completed: list the completion records too; without a change of theirs those of runs
                that have no directory are the ones that are known.
        """
        folders = _folders(self._root)
        known: dict[str, int | None] = dict(
            self._query("SELECT id, folder FROM runs WHERE id < x''")
        )
        for key, folder in self._query("SELECT id, folder FROM runs WHERE id >= x''"):
            known[as_id(key)] = folder  # a name that is no text: all bytes come after all texts
        changed: dict[str, int | None] = {
            name: inode for name, inode in folders.items() if known.get(name, -1) != inode
        }
        if not completed:
            return changed | {
                name: None for name in known.keys() - folders.keys() if known[name] is not None
            }
        lost = _completed_ids(self._root) - folders.keys()
        changed |= {name: None for name in lost if known.get(name, -1) is not None}
        gone = known.keys() - folders.keys() - lost
        return changed | dict.fromkeys(gone)

    def _suspects(self, marked: Iterable[str]) -> dict[str, int | None]:
        """Return the runs whose files are others than those that were read."""
        changed = {name: _inode(self._root / name) for name in marked}
        live = self._query(f"SELECT {_COMPARED} FROM runs WHERE live")
        changed |= {as_id(row[0]): row[1] for row in live if self._differs(row)}
        limit = time.monotonic() + _CHECKED_SECONDS
        rows = self._in_turn()
        last = None
        for row in rows:
            if self._differs(row):
                changed[as_id(row[0])] = row[1]
            last = row[-1]
            if time.monotonic() > limit and not self._thorough:
                break
        if rows and (len(rows) == CHECKED or last != rows[-1][-1]) and not self._private:
            with contextlib.suppress(OSError):  # a hint where to continue, so it need not be safe
                self._place.write_text(str(last), encoding="ascii")
        return changed

    def _differs(self, row: Sequence[Any]) -> bool:
        key, _, mtime, size, inode, gone, live, state, host, boot, beat, *_ = row
        run_id = as_id(key)
        seen = stamp(stamped_path(self._root, run_id, gone=bool(gone)))
        if seen is NO_STAMP and gone is None:
            return stamp(completion_path(self._root, run_id)) is not NO_STAMP
        if seen != Stamp(mtime, size, inode):
            return True
        if not live or state is None:
            return False
        heartbeat = {"host": host, "boot_id": boot, "time": beat or 0.0}
        record = RunRecord(run_id, heartbeat=heartbeat)
        return current_state(RunDirectory(self._root / run_id), record) != state

    def _in_turn(self) -> list[Any]:
        """Return the runs to compare this time besides those that are compared every time."""
        select = f"SELECT {_COMPARED}, number FROM runs WHERE NOT live AND number > ?"
        if self._thorough:
            return self._query(select, (0,))
        try:
            after = int(self._place.read_text(encoding="ascii"))
        except (OSError, ValueError):
            after = 0
        found = self._query(f"{select} ORDER BY number LIMIT {CHECKED}", (after,))
        if after and len(found) < CHECKED:
            more = f"{select} AND number <= ? ORDER BY number LIMIT {CHECKED - len(found)}"
            found += self._query(more, (0, after))
        return found

    @property
    def _place(self) -> Path:
        """Holds the number of the run that was compared last in turn."""
        return self._root / INDEX / "compared"

    def _write(
        self, changed: Mapping[str, int | None], marked: list[str], facts: Mapping[str, str]
    ) -> None:
        """Read the changed runs and write them, a batch per transaction."""
        try:
            self._write_batches(changed, marked, facts)
        except sqlite3.OperationalError:
            if self._private:
                raise
            copied = in_memory(copy_of=self.connection)
            self.connection.close()
            self.connection, self._private = copied, True
            self.run()  # what others wrote meanwhile is in the copy

    def _write_batches(
        self, changed: Mapping[str, int | None], marked: list[str], facts: Mapping[str, str]
    ) -> None:
        names = list(changed)
        with track("reading the runs", total=float(len(names)), unit="runs") as task:
            for start in range(0, max(1, len(names)), _BATCH):
                batch = {name: changed[name] for name in names[start : start + _BATCH]}
                last = start + _BATCH >= len(names)
                self._write_batch(batch, marked, facts if last else {}, task)

    def _write_batch(
        self,
        batch: Mapping[str, int | None],
        marked: list[str],
        facts: Mapping[str, str],
        task: Task,
    ) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        taken: list[str] = []
        try:
            # A mark goes before the run is read: one that comes back meanwhile stays.
            taken += [] if self._private else _take_marks(self._root, set(marked) & batch.keys())
            writer = Writer(self.connection, self._root)
            for run_id, folder in batch.items():
                writer.refresh(run_id, folder)
                task.advance(1)
            self.connection.executemany("REPLACE INTO facts VALUES (?, ?)", facts.items())
            self.connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            for run_id in taken:
                mark_changed(self._root, run_id)
            raise

    def _query(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        return self.connection.execute(statement, values).fetchall()


def _directory_time(path: Path) -> str:
    """Return what changes when the entries of a directory do; empty when that is not certain.

    A change right after a look may leave the time as it is where clocks are coarse, so a directory
    that changed just now is listed again next time.
    """
    try:
        found = path.stat()
    except OSError:
        return "none"
    fresh = time.time_ns() - found.st_mtime_ns < _SETTLED
    return "" if fresh else f"{found.st_mtime_ns} {found.st_ino}"


def _folders(root: Path) -> dict[str, int]:
    """Return the names of the directories below ``root`` with their inodes."""
    try:
        with os.scandir(root) as found:
            return {
                item.name: item.inode()
                for item in found
                if not item.name.startswith(".") and item.is_dir()
            }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:
        raise RunError(
            f"{root} cannot be read: {error.strerror}",
            remedy="make it readable, or name another directory of runs with --root",
        ) from error


def _inode(path: Path) -> int | None:
    """Return the inode that a listing of the directory above gives."""
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _completed(root: Path) -> Path:
    return completion_path(root, "").parent


def _completed_ids(root: Path) -> set[str]:
    try:
        names = os.listdir(_completed(root))  # noqa: PTH208 - names alone
    except OSError:
        return set()
    return {name[:-5] for name in names if name.endswith(".json") and not name.startswith(".")}


def _marked(root: Path) -> list[str]:
    try:
        return os.listdir(marks_path(root))  # noqa: PTH208 - names alone
    except OSError:
        return []


def _take_marks(root: Path, names: Iterable[str]) -> list[str]:
    taken = []
    for name in names:
        with contextlib.suppress(OSError):
            (marks_path(root) / name).unlink()
            taken.append(name)
    return taken
