"""The runs below a root: finding all of them or the one a user means, and clearing one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llmforge.errors import RunError, UsageError
from llmforge.run_root import root_option
from llmforge.rundir.annotations import Annotations, read_annotations
from llmforge.rundir.atomic import write_remedy
from llmforge.rundir.completion import Completion, load_completion, read_completion
from llmforge.rundir.last_row import last_row
from llmforge.rundir.layout import ARCHIVE, RunDirectory, archive_path, completion_path
from llmforge.rundir.lock import RunLock
from llmforge.rundir.record import RunRecord, current_state, read_record
from llmforge.rundir.trash import deleted_runs

_COMPARED = 1000
"""Names that a mistyped one is compared with at most: each takes a part of a millisecond."""

_DESCRIBED = 20
"""Runs that are described at most where a name is that of several."""


@dataclass(frozen=True)
class RunEntry:
    """A run as the list shows it.

    Attributes:
        directory: where it is, or lay.
        record: its record; made from the completion when the directory is gone.
        state: the state it is in now.
        problem: why its record cannot be read; empty when it can.
        gone: only the completion is left.
        note: what somebody wrote about it.
    """

    directory: RunDirectory
    record: RunRecord
    state: str
    problem: str = ""
    gone: bool = False
    note: str = ""


def run_directories(root: Path, *, archived: bool = False) -> Iterator[RunDirectory]:
    """Yield every run directory below ``root``, or every cleared one, in order of id."""
    base = root / ARCHIVE if archived else root
    for name in _names(base):
        directory = RunDirectory(base / name)
        if has_record(directory):
            yield directory


def list_runs(root: Path, *, archived: bool = False) -> list[RunEntry]:
    """Return every run below ``root``, or every cleared one, in order of id.

    Completed runs whose directory is gone are among them.
    """
    if archived:
        return [entry_of(RunDirectory(root / ARCHIVE / name)) for name in _names(root / ARCHIVE)]
    names = sorted({*_names(root), *_completed(root)})
    entries = [entry_of(RunDirectory(root / name)) for name in names]
    return [entry for entry in entries if not entry.problem or _is_run(entry.directory)]


def entry_of(directory: RunDirectory) -> RunEntry:
    """Return the list entry of one run; a damaged record becomes its ``problem``.

    Name and tags are those that people gave it since, where they did.
    """
    try:
        record = read_record(directory)
    except RunError as error:
        return _entry_without_record(directory, error)
    state = current_state(directory, record)
    if record.state == "running":
        _bring_up_to_date(directory, record)
    said = _said(directory)
    if said is not None:
        record.name, record.tags = said.name or record.name, said.tags(record.tags)
    note = (said.note if said is not None else None) or ""
    return RunEntry(directory, record, state, note=note)


def completion_of(directory: RunDirectory) -> Completion | None:
    """Return the completion of a run, cleared or not; None when it is not done.

    Raises:
        RunError: the completion record is damaged.
    """
    if directory.root.name == ARCHIVE:
        return load_completion(directory.completion)
    return read_completion(directory.root, directory.id)


def find_run(root: Path, text: str, *, gone: bool = False) -> RunDirectory:
    """Return the run whose id is ``text`` or begins with it.

    A cleared run is found by the whole name it has in the archive.

    Args:
        root: the directory of all runs.
        text: an id, the beginning of one, or the path of a run directory.
        gone: also find completed runs whose directory is gone.

    Raises:
        RunError: no run matches.
        UsageError: several do; the message lists them with dates and differing keys.
    """
    for exact in (RunDirectory(root / text), RunDirectory(root / ARCHIVE / text)):
        if text and has_record(exact):
            return exact
    if gone and text and _exists(completion_path(root, text)):
        return RunDirectory(root / text)
    near = [RunDirectory(root / name) for name in _names(root, text)]
    matches = [directory for directory in near if has_record(directory)]
    if gone:
        here = {directory.id for directory in matches}
        lost = [name for name in _completed(root, text) if name not in here]
        matches += [RunDirectory(root / name) for name in lost]
    _refuse_another(root, text, matches)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(
            f"'{text}' matches {len(matches)} runs:\n" + "\n".join(_described(matches)),
            remedy="give more of the id",
        )
    raise _no_run(root, text, _names(root))


def _refuse_another(root: Path, text: str, matches: list[RunDirectory]) -> None:
    """Refuse to take the beginning of an id for what is the whole id of a run that was here.

    Who deletes or prunes a run twice must not lose another one whose id begins like it.

    Raises:
        RunError: a run of exactly this id was deleted or cleared.
    """
    if not text:
        return
    others = ", ".join(f"'{directory.id}'" for directory in matches[:_DESCRIBED])
    more = f"; {others} begin{'s' if len(matches) == 1 else ''} with it, too" if matches else ""
    if any(item.run_id == text for item in deleted_runs(root)):
        raise RunError(
            f"run '{text}' was deleted{more}",
            remedy=f"'forge runs restore {text}{root_option(root)}' brings it back"
            + ("; give more of the id for another one" if matches else ""),
        )
    if matches and next_attempt(root, text) > 1:
        raise RunError(
            f"run '{text}' was cleared{more}",
            remedy=f"give more of the id; {archive_path(root, text, next_attempt(root, text) - 1)} "
            "is the cleared one",
        )


def has_record(directory: RunDirectory) -> bool:
    """Return whether a directory has a ``run.json``, or does not let this user see if it has one.

    The second is a run as well, so that reading it says what is to be made readable.
    """
    try:
        directory.record.stat()
    except PermissionError:
        return _exists(directory.path)
    except (OSError, ValueError):  # not there, too long a name, a NUL in it
        return False
    return True


def next_attempt(root: Path, run_id: str) -> int:
    """Return the number of the next fresh start of ``run_id``, from 1."""
    pattern = re.compile(re.escape(run_id) + r"\.attempt-(\d+)")
    archive = root / ARCHIVE
    names = [path.name for path in archive.iterdir()] if archive.is_dir() else []
    taken = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
    return max(taken, default=0) + 1


def clear_run(root: Path, run_id: str) -> Path | None:
    """Move a run and its completion aside; return where the run lies now, None if there is none.

    Raises:
        RunLockedError: the run is being trained.
        RunError: the disk does not let it be moved.
    """
    with RunLock(root, run_id):
        directory = RunDirectory(root / run_id)
        completion = completion_path(root, run_id)
        aside = archive_path(root, run_id, _attempt(directory))
        if not directory.path.exists() and not completion.exists():
            return None
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            # One rename moves everything, so that a kill in between leaves the run clearable.
            directory.path.mkdir(exist_ok=True)
            if completion.exists():
                completion.rename(directory.completion)
            directory.path.rename(aside)
        except OSError as error:
            raise RunError(
                f"run {run_id} cannot be moved to {aside}: {error.strerror}",
                remedy=write_remedy(error, f"{root} and what is in it"),
            ) from error
        return aside


def _bring_up_to_date(directory: RunDirectory, record: RunRecord) -> None:
    """Take from the newest rows what a record lacks that is as old as the run's last heartbeat.

    Of a run that was killed it stays that old.
    """
    try:
        values, timing = last_row(directory.metrics), last_row(directory.timing)
    except OSError:  # whoever reads all of it says so
        return
    moment = timing.get("time")
    if isinstance(moment, int | float) and moment > record.heartbeat.get("time", moment):
        record.heartbeat = {**record.heartbeat, "time": moment}
        record.step = max(record.step, _step(timing))
    if _step(values) >= _step(record.metrics):
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        record.metrics = {**record.metrics, **numbers}
        record.step = max(record.step, _step(values))


def _step(row: Mapping[str, Any]) -> int:
    step = row.get("step")
    return step if isinstance(step, int) else 0


def _said(directory: RunDirectory) -> Annotations | None:
    """Return the annotations of a run; none are better than no entry when they are damaged."""
    try:
        return read_annotations(directory)
    except RunError:
        return None


def _names(base: Path, start: str = "") -> list[str]:
    """Return the names in ``base`` that begin with ``start``, in order, hidden ones left out.

    There are none when ``base`` is not there.
    """
    try:
        names = os.listdir(base)  # noqa: PTH208 - names alone
        return sorted(name for name in names if name.startswith(start) and name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise RunError(
            f"{base} cannot be read: {error.strerror}",
            remedy="make it readable, or name another directory of runs with --root",
        ) from error


def _is_run(directory: RunDirectory) -> bool:
    return has_record(directory) or _exists(completion_path(directory.root, directory.id))


def _exists(path: Path) -> bool:
    """Return whether a path is there; one that cannot be looked at is not, and raises nothing."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where it may not look


def _completed(root: Path, start: str = "") -> list[str]:
    names = _names(completion_path(root, "").parent, start)
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def _entry_without_record(directory: RunDirectory, error: RunError) -> RunEntry:
    try:
        completion = None if has_record(directory) else completion_of(directory)
    except RunError as damaged:
        error, completion = damaged, None
    if completion is None:
        return RunEntry(directory, RunRecord(directory.id), "unreadable", error.message)
    return RunEntry(directory, _record_from(completion), completion.state, gone=True)


def _record_from(completion: Completion) -> RunRecord:
    best = {"metric": "val/loss", "value": completion.best_loss, "step": completion.best_step}
    metrics = {"val/loss": completion.final_loss, "best": best}
    return RunRecord(
        completion.run_id,
        attempt=completion.attempt,
        state=completion.state,
        exit_reason=completion.reason,
        identity={"hash": completion.identity},
        started=completion.started,
        ended=completion.ended,
        step=completion.steps,
        total_steps=completion.steps,
        metrics={name: value for name, value in metrics.items() if value is not None},
    )


def _no_run(root: Path, text: str, names: list[str]) -> RunError:
    near = _nearest(text, names)
    if text and _exists(completion_path(root, text)):
        lost = "holds no run.json" if _exists(root / text) else "is gone"
        return RunError(
            f"run '{text}' is completed, but its directory {root / text} {lost}",
            remedy=f"'forge runs clear {text}{root_option(root)}' lets it train again",
        )
    return RunError(
        f"no run '{text}' in {root}",
        remedy=f"did you mean '{near}'?" if near else "'forge runs list' shows the runs there are",
    )


def _nearest(text: str, names: list[str]) -> str | None:
    """Return the name most like ``text``; of very many, one that begins as it does."""
    import difflib

    for shared in range(len(text), 0, -1) if len(names) > _COMPARED else ():
        some = [name for name in names if name.startswith(text[:shared])]
        if some:
            names = some[:_COMPARED]
            break
    found = difflib.get_close_matches(text, names[:_COMPARED], n=1)
    return found[0] if found else None


def _described(directories: list[RunDirectory]) -> Iterator[str]:
    entries = [entry_of(directory) for directory in directories[:_DESCRIBED]]
    keys = [entry.record.identity.get("keys", {}) for entry in entries]
    known = [item for item in keys if item]  # a damaged record has none, and differs in nothing
    names = sorted({name for item in known for name in item})
    values_of = {name: len({repr(item.get(name)) for item in known}) for name in names}
    # What tells most of them apart comes first.
    differing = sorted((name for name in names if values_of[name] > 1), key=lambda n: -values_of[n])
    for entry, item in zip(entries, keys, strict=True):
        started = entry.record.started
        when = f"{datetime.fromtimestamp(started):%Y-%m-%d %H:%M}" if started else ""
        values = ", ".join(f"{name}={item.get(name, 'default')}" for name in differing[:4])
        shown = (entry.directory.id, when, entry.state, values if item else "")
        yield "    " + "  ".join(part for part in shown if part)
    if len(directories) > _DESCRIBED:
        yield f"    and {len(directories) - _DESCRIBED:,} more"


def _attempt(directory: RunDirectory) -> int:
    """Return the attempt a run is: of a run started elsewhere it is more than was cleared here."""
    counted = next_attempt(directory.root, directory.id)
    try:
        return max(counted, read_record(directory).attempt)
    except RunError:  # cleared because it cannot be read, or never started
        return counted
