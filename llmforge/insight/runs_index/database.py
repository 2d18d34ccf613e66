"""The file of the index: an SQLite database below the run root, or in memory where none can be.

It holds nothing that is not in the runs' own files, so it may be deleted at any time. A damaged
one, or one of another version, is replaced. It has a rollback journal, not WAL, which works between
machines on a network file system as far as its locks do.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from llmforge.rundir.changes import INDEX

VERSION = 2
"""Of the schema; an index of another one is built again."""

FILE = "runs.sqlite3"
_PATIENCE_SECONDS = 3.0

SCHEMA = """
CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    is_run INTEGER NOT NULL,     -- 0: a folder that is no run, or none yet
    live INTEGER NOT NULL,       -- 1: looked at every time
    folder INTEGER,              -- inode of the directory; NULL when it is gone
    mtime INTEGER, size INTEGER, inode INTEGER,  -- of the file that was read
    state TEXT, name TEXT, step INTEGER, total_steps INTEGER,
    loss REAL, best_metric TEXT, best_value REAL, best_step INTEGER,
    created REAL, started REAL, ended REAL, took REAL,
    attempt INTEGER, restarts INTEGER, profile TEXT, tags TEXT, note TEXT,
    host TEXT, boot TEXT, beat REAL,
    gone INTEGER, exit_reason TEXT, problem TEXT
);
CREATE INDEX runs_by_start ON runs (is_run, started DESC, id);
CREATE INDEX runs_live ON runs (live) WHERE live;
CREATE INDEX runs_by_id ON runs (id, folder);
CREATE TABLE metrics (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE recipes (number INTEGER PRIMARY KEY, sections BLOB NOT NULL);
CREATE TABLE sections (hash INTEGER PRIMARY KEY, name TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX sections_by_name ON sections (name);
CREATE TABLE names (kind TEXT, name TEXT, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


def database_path(root: Path) -> Path:
    """Return where the index of the runs below ``root`` is."""
    return root / INDEX / FILE


def open_database(root: Path) -> sqlite3.Connection:
    """Open the index of ``root``, empty when it is new; in memory where it can be no file."""
    path = database_path(root)
    for _ in range(2):
        try:
            return _open_file(path)
        except sqlite3.OperationalError:
            break  # locked, read-only, no room, no locks: not the file's fault
        except sqlite3.DatabaseError:
            if not discard(root):
                break
        except OSError:
            break
    return in_memory()


def in_memory(copy_of: sqlite3.Connection | None = None) -> sqlite3.Connection:
    """Return an index that only this process has, with what ``copy_of`` holds if it can be read."""
    connection = _connect(":memory:")
    if copy_of is not None:
        with contextlib.suppress(sqlite3.Error):
            copy_of.backup(connection)
            return connection
        connection.close()
        connection = _connect(":memory:")
    _create(connection)
    return connection


def discard(root: Path) -> bool:
    """Delete the index of ``root``; return whether it is gone."""
    path = database_path(root)
    try:
        for name in (path, path.with_name(f"{FILE}-journal")):
            name.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _open_file(path: Path) -> sqlite3.Connection:
    if not path.parent.parent.is_dir():
        raise FileNotFoundError(path.parent.parent)
    path.parent.mkdir(exist_ok=True)
    connection = _connect(str(path))
    try:
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = NORMAL")
        if _version(connection) != VERSION:
            _create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(place: str) -> sqlite3.Connection:
    connection = sqlite3.connect(place, timeout=_PATIENCE_SECONDS, isolation_level=None)
    connection.execute("PRAGMA cache_size = -65536")
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables, in place of those of another version."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection) != VERSION:  # nobody else was faster
            for kind in ("table", "index"):
                found = connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = ? AND name NOT LIKE 'sqlite_%'",
                    (kind,),
                ).fetchall()
                for (name,) in found:
                    quoted = name.replace('"', '""')
                    connection.execute(f'DROP {kind} IF EXISTS "{quoted}"')
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
