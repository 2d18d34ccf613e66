"""Watching runs in storage: only what the storage has of them, copied to a folder of our own."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType

from llmforge.errors import RunError, StorageError, UsageError
from llmforge.monitor.follower import RunFollower
from llmforge.monitor.snapshot import CheckpointAge, Snapshot
from llmforge.remote import Commit, RemoteEntry, RemoteRun, list_runs
from llmforge.remote.layout import is_safe
from llmforge.rundir import RunDirectory, RunEntry, entry_of
from llmforge.rundir.atomic import write_bytes
from llmforge.rundir.record import read_record

STALE_SECONDS = 120.0
"""A run whose mirrored heartbeat is older than this is not running: mirroring takes its time."""
_FOLLOWED = ("recipe.toml", "metrics.jsonl", "timing.jsonl")


class StoredRuns:
    """Runs in the storage at ``url`` that somebody watches.

    A context manager, for the folder that the copies are in.

    Args:
        url: the storage.
        names: ids, or beginnings of ids; without any all that are running, else the newest.
    """

    def __init__(self, url: str, names: Sequence[str] = ()) -> None:
        self._url = url
        self._names = names
        self._folder = tempfile.TemporaryDirectory(prefix="forge-monitor-")
        self._followers: list[_StoredFollower] = []

    def __enter__(self) -> StoredRuns:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def require(self) -> None:
        """Find the runs.

        Raises:
            RunError: there is none of a name, or none at all.
            UsageError: a name begins several.
            StorageError: the storage cannot be read.
        """
        entries = list_runs(self._url)
        chosen = [_one(entries, name, self._url) for name in self._names]
        if not self._names:
            chosen = _running(entries)
        if not chosen:
            raise RunError(f"no runs in {self._url}", remedy="is it the right address?")
        folder = Path(self._folder.name)
        self._followers = [_StoredFollower(self._url, entry, folder) for entry in chosen]

    def followers(self) -> list[RunFollower]:
        """Return a follower of each run."""
        if not self._followers:
            self.require()
        return list(self._followers)

    def look(self) -> list[Snapshot]:
        """Return how the runs stand, as far as the storage has it."""
        return [follower.look() for follower in self.followers()]


class _StoredFollower(RunFollower):
    def __init__(self, url: str, entry: RemoteEntry, folder: Path) -> None:
        remote = RemoteRun(url, None, entry.run_id, entry.attempt)
        directory = RunDirectory(folder / remote.run_id)
        directory.path.mkdir(parents=True, exist_ok=True)
        super().__init__(directory, place=remote.url)
        self._remote = remote
        self._storage = url
        self._commits: list[Commit] = []
        self._problem = ""
        self._again = False

    def look(self) -> Snapshot:
        try:
            self._fetch()
            self._problem = ""
        except StorageError as error:
            self._problem = error.message
        return super().look()

    def _fetch(self) -> None:
        """Copy what has changed; the record, whose heartbeat says so, comes last.

        The files of one moment arrive one after the other, so each change is followed by one more
        look at all of them.
        """
        record = self._remote.read_file("run.json")
        path = self.directory.record
        changed = record is not None and not (path.exists() and path.read_bytes() == record)
        if record is None or not (changed or self._again):
            return
        self._again = changed
        there = self._remote.names()
        logs = [name for name in there if name.endswith(".txt") and "/" not in name]
        for name in [*_FOLLOWED, *logs]:
            if name in there and is_safe(name):
                content = self._remote.read_file(name)
                if content is not None:
                    write_bytes(self.directory.path / name, content, durable=False)
        self._commits = self._remote.commits()
        write_bytes(path, record, durable=False)

    def _entry(self) -> RunEntry:
        entry = entry_of(self.directory)
        if entry.problem or read_record(self.directory).state != "running":
            return entry
        beat = float(entry.record.heartbeat.get("time", 0.0))
        state = "running" if time.time() - beat < STALE_SECONDS else "crashed"
        return RunEntry(entry.directory, entry.record, state)

    def _newest_checkpoints(self) -> tuple[CheckpointAge | None, CheckpointAge | None]:
        def age(found: Sequence[Commit]) -> CheckpointAge | None:
            if not found:
                return None
            created = datetime.fromisoformat(found[-1].created).timestamp()
            return CheckpointAge(step=found[-1].step, created=created)

        return age(self._commits), age([item for item in self._commits if item.is_best])

    def _snapshot(self, entry: RunEntry, now: float) -> Snapshot:
        found = super()._snapshot(entry, now)
        why = found.why
        if entry.state == "crashed":
            why = "nothing of it has come to the storage any more"
        if self._problem:
            why = f"the storage cannot be read: {self._problem}"
        command = f"forge runs pull {found.id} --storage {self._storage}"
        return dataclasses.replace(
            found, why=why, pending={}, next_command="" if found.state == "running" else command
        )


def _one(entries: Sequence[RemoteEntry], name: str, url: str) -> RemoteEntry:
    found = [entry for entry in entries if entry.run_id.startswith(name)]
    exact = [entry for entry in found if entry.run_id == name]
    if not found:
        raise RunError(
            f"no run in {url} begins with '{name}'", remedy=f"forge runs list --storage {url}"
        )
    if len(found) > 1 and not exact:
        names = ", ".join(entry.run_id for entry in found)
        raise UsageError(f"'{name}' begins several runs in {url}: {names}")
    return (exact or found)[0]


def _running(entries: Sequence[RemoteEntry]) -> list[RemoteEntry]:
    def beat(entry: RemoteEntry) -> float:
        return float(((entry.record or {}).get("heartbeat") or {}).get("time", 0.0))

    recent = time.time() - STALE_SECONDS
    running = [
        entry
        for entry in entries
        if (entry.record or {}).get("state") == "running" and beat(entry) > recent
    ]
    return running or sorted(entries, key=beat)[-1:]
