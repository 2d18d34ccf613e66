"""Telling a page what changes while it is open, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from llmforge.errors import ForgeError
from llmforge.rundir import RunDirectory, RunEntry
from llmforge.strict_json import strict_json
from llmforge.ui.answers import Answers
from llmforge.ui.run_details import log_file

LOOK_SECONDS = 1.0
_QUIET_LOOKS = 15
"""Looks without news after which a comment shows that the connection is alive."""

Event = tuple[str, dict[str, Any]]


class _Watched:
    """One run, and how much of it was told."""

    def __init__(self, answers: Answers, run_id: str) -> None:
        self._answers = answers
        self._entry: RunEntry = answers.entry(run_id)
        curves = answers.curve_reader
        self._generation, self._counts = curves.counts(self._entry.directory)
        self._stamps = dict(_stamps(self._entry.directory))
        self._log = self._log_size()

    def look(self) -> Iterator[Event]:
        """Yield what is new."""
        directory = self._entry.directory
        run = {"run": directory.id}
        curves = self._answers.curve_reader
        generation, counts, points = curves.since(directory, self._counts)
        cut = generation != self._generation or any(
            counts.get(name, 0) < count for name, count in self._counts.items()
        )
        self._generation, self._counts = generation, counts
        if cut:
            yield "reset", run
        elif points:
            yield "points", {**run, "series": points}
        stamps = dict(_stamps(directory))
        changed = [name for name, stamp in stamps.items() if stamp != self._stamps[name]]
        self._stamps = stamps
        if changed:
            yield "files", {**run, "changed": changed}
        size = self._log_size()
        if size != self._log:
            self._log = size
            yield "log", {**run, "size": size}

    def _log_size(self) -> int:
        path = log_file(self._entry)
        try:
            return path.stat().st_size if path else 0
        except OSError:
            return 0


class Follower:
    """What one open page was told so far.

    Args:
        answers: about the runs.
        watch: ids of runs whose points, files and logs are told as well.
        since: the version of the table that the page has.

    Raises:
        RunError: there is no such run.
    """

    def __init__(self, answers: Answers, watch: Sequence[str], *, since: int) -> None:
        self._table = answers.table
        self._version = since
        self._watched = [_Watched(answers, run_id) for run_id in watch]

    def look(self) -> list[Event]:
        """Return what is new since the last look."""
        changes = self._table.changes(self._version)
        news: list[Event] = []
        if changes.version != self._version:
            body = {"runs": changes.rows, "removed": changes.removed}
            news.append(("rows", {**body, "version": changes.version, "whole": changes.whole}))
        self._version = changes.version
        for run in self._watched:
            news += run.look()
        return news


async def event_lines(follower: Follower, stop: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield events until the server stops; the first says that changes are told from now on."""
    yield _event("ready", {})
    quiet = 0
    while not stop.is_set():
        try:
            news = await asyncio.to_thread(follower.look)
        except ForgeError as error:  # for example a root that may not be read for a while
            news = [("problem", {"message": str(error)})]
        if news:
            yield b"".join(_event(name, body) for name, body in news)
            quiet = 0
        elif (quiet := quiet + 1) % _QUIET_LOOKS == 0:
            yield b": still here\n\n"
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await stop.wait()
        except TimeoutError:
            continue


def _event(name: str, body: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {strict_json(body)}\n\n".encode()


def _stamps(directory: RunDirectory) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield for each kind of file that a page shows what changes with it."""
    places = {
        "run": directory.record,
        "samples": directory.samples,
        "tests": directory.examples,
        "checkpoints": directory.checkpoints,
        "uploads": directory.uploads,
        "deployments": directory.deployments,
    }
    for name, path in places.items():
        try:
            status = path.stat()
            yield name, (status.st_mtime_ns, status.st_ino)
        except OSError:
            yield name, (0, 0)
