"""Finding runs: all of them, or the one a user means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llmforge.errors import RunError, UsageError
from llmforge.options import closest
from llmforge.rundir.layout import RunDirectory
from llmforge.rundir.record import RunRecord, current_state, read_record


@dataclass(frozen=True)
class RunEntry:
    """A run as the list shows it; ``problem`` is set when its record cannot be read."""

    directory: RunDirectory
    record: RunRecord
    state: str
    problem: str = ""


def run_directories(root: Path, *, archived: bool = False) -> Iterator[RunDirectory]:
    """Yield every run directory below ``root``, or every archived one."""
    base = root / ".archive" if archived else root
    try:
        with os.scandir(base) as found:
            names = sorted(item.name for item in found if not item.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        directory = RunDirectory(base / name)
        if directory.record.exists():
            yield directory


def list_runs(root: Path, *, archived: bool = False) -> list[RunEntry]:
    """Return every run below ``root``, in order of id."""
    return [entry_of(directory) for directory in run_directories(root, archived=archived)]


def entry_of(directory: RunDirectory) -> RunEntry:
    """Return the list entry of one run; a damaged record becomes its ``problem``."""
    try:
        record = read_record(directory)
    except RunError as error:
        return RunEntry(directory, RunRecord(directory.id), "unreadable", error.message)
    return RunEntry(directory, record, current_state(directory, record))


def find_run(root: Path, text: str) -> RunDirectory:
    """Return the run whose id is ``text`` or begins with it.

    Raises:
        RunError: no run matches.
        UsageError: several do; the message lists them with dates and differing keys.
    """
    exact = RunDirectory(root / text)
    if text and exact.record.exists():
        return exact
    directories = list(run_directories(root))
    matches = [directory for directory in directories if directory.id.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(
            f"'{text}' matches {len(matches)} runs:\n" + "\n".join(_described(matches)),
            remedy="give more of the id",
        )
    near = closest(text, [directory.id for directory in directories])
    raise RunError(
        f"no run '{text}' in {root}",
        remedy=f"did you mean '{near}'?" if near else "'forge runs list' shows the runs there are",
    )


def newest_run(root: Path) -> RunDirectory:
    """Return the run that was started last.

    Raises:
        RunError: there is none.
    """
    entries = [entry for entry in list_runs(root) if not entry.problem]
    if not entries:
        raise RunError(f"no runs in {root}", remedy="train one: forge train wikitext_tiny")
    return max(entries, key=lambda entry: entry.record.started).directory


def _described(directories: list[RunDirectory]) -> Iterator[str]:
    entries = [entry_of(directory) for directory in directories]
    keys = [entry.record.identity.get("keys", {}) for entry in entries]
    names = sorted({name for item in keys for name in item})
    differing = [name for name in names if len({repr(item.get(name)) for item in keys}) > 1]
    for entry, item in zip(entries, keys, strict=True):
        when = datetime.fromtimestamp(entry.record.started).strftime("%Y-%m-%d %H:%M")
        values = ", ".join(f"{name}={item.get(name, 'default')}" for name in differing[:4])
        yield f"    {entry.directory.id}  {when}  {entry.state}  {values}".rstrip()
