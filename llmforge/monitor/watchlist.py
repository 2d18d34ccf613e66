"""Which runs are watched: those that were named, or all that run, else the newest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from llmforge.errors import RunError
from llmforge.insight.runs_index import newest_run
from llmforge.monitor.follower import RunFollower
from llmforge.monitor.snapshot import Snapshot
from llmforge.rundir import RunDirectory, entry_of, find_run
from llmforge.rundir.index import run_directories
from llmforge.rundir.record import HEARTBEAT_STALE_SECONDS

_SEARCH_SECONDS = 5.0


class Watchlist:
    """The runs below a root that somebody watches, and how they stand.

    Args:
        root: the directory of all runs.
        names: ids, or beginnings of ids; without any, all runs that are running, those that start
            later too, and the newest when none does.
    """

    def __init__(self, root: Path, names: Sequence[str] = ()) -> None:
        self._root = root
        self._names = list(dict.fromkeys(names))
        self._known: set[str] = set()
        self._followers: dict[str, RunFollower] = {}
        self._searched = float("-inf")

    @property
    def missing(self) -> list[str]:
        """The names that are no run yet."""
        return [name for name in self._names if name not in self._known]

    def require(self) -> None:
        """Refuse names of runs that are not there, or no run at all.

        Raises:
            RunError: there is none of a name, or none at all.
            UsageError: a name begins several.
        """
        for name in self._names:
            find_run(self._root, name)
        if not self._names:
            newest_run(self._root)

    def followers(self) -> list[RunFollower]:
        """Return a follower of each run that is there, in the order they were found.

        Raises:
            UsageError: a name begins several runs.
        """
        now = time.monotonic()
        if now - self._searched >= _SEARCH_SECONDS:
            self._searched = now
            found = self._named() if self._names else self._running()
            for directory in found:
                self._followers.setdefault(directory.id, RunFollower(directory))
        return list(self._followers.values())

    def look(self) -> list[Snapshot]:
        """Return how the runs stand now, those that are not there yet as ``waiting``."""
        found = [follower.look() for follower in self.followers()]
        waiting = [
            Snapshot(
                id=name,
                state="waiting",
                taken=time.time(),
                directory=str(self._root / name),
                why=f"there is no such run in {self._root} yet",
            )
            for name in self.missing
        ]
        return found + waiting

    def _named(self) -> list[RunDirectory]:
        found = []
        for name in self.missing:
            try:
                found.append(find_run(self._root, name))
            except RunError:
                continue
            self._known.add(name)
        return found

    def _running(self) -> list[RunDirectory]:
        """Return the runs that are running; the newest when none is watched and none runs."""
        recent = time.time() - HEARTBEAT_STALE_SECONDS
        fresh = [
            directory
            for directory in run_directories(self._root)
            if directory.id not in self._followers and _changed(directory.record) > recent
        ]
        running = [directory for directory in fresh if entry_of(directory).state == "running"]
        if running or self._followers:
            return running
        try:
            return [newest_run(self._root)]
        except RunError:
            return []


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
