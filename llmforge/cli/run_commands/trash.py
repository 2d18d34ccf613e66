"""``forge runs delete``, ``restore`` and ``gc``: the trash, and emptying it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, emit_json, interactive, run_root

if TYPE_CHECKING:
    from llmforge.rundir import RunDirectory
    from llmforge.rundir.trash import DeletedRun

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
OlderThan = Annotated[
    str, typer.Option("--older-than", metavar="AGE", help="Deleted longer ago than this.")
]


def delete(
    runs: Annotated[list[str], options.argument("RUN", "Run ids, or beginnings of them.")],
    yes: Yes = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Move runs to the trash; 'forge runs restore' brings them back.

    Exit codes: 3 a run is being trained, and none was deleted.
    """
    from llmforge.errors import RunLockedError, UsageError
    from llmforge.rundir import RunDirectory, entry_of, find_run
    from llmforge.rundir.trash import delete_run

    place = run_root(root)
    found = [find_run(place, text, gone=True) for text in dict.fromkeys(runs)]
    found = [RunDirectory(path) for path in dict.fromkeys(item.path for item in found)]
    for directory in found:
        if entry_of(directory).state == "running":
            raise RunLockedError(
                f"run {directory.id} is being trained",
                remedy=f"stop it first; 'forge runs status {directory.id}' says where it runs",
            )
    if not as_json:
        for directory in found:
            echo(f"{directory.id}: {_loss(directory)}")
    if not yes:
        if as_json or not interactive():
            raise UsageError(
                f"deleting {_count(len(found))} needs a yes, and there is no terminal to ask on",
                remedy=f"forge runs delete {' '.join(item.id for item in found)} --yes",
            )
        typer.confirm(f"Move {_count(len(found))} to the trash?", abort=True)
    deleted = []
    for directory in found:
        aside = delete_run(directory)
        deleted.append({"id": directory.id, "directory": str(aside)})
        if not as_json:
            echo(f"{directory.id} is now in {aside}")
    if as_json:
        emit_json(deleted)
        return
    echo("'forge runs restore RUN' brings one back; 'forge runs gc' empties the trash")


def restore(
    run: Annotated[
        str | None,
        options.argument("RUN", "A deleted run, or the beginning of its id; absent: list them."),
    ] = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Bring a deleted run back, or list those in the trash."""
    from llmforge.cli.render import Column, age_text, print_table
    from llmforge.errors import RunError, UsageError
    from llmforge.insight.summary import iso_time
    from llmforge.rundir import RunDirectory, has_record
    from llmforge.rundir.trash import deleted_runs, restore_run

    place = run_root(root)
    found = deleted_runs(place)
    if run is None:
        if as_json:
            emit_json([{"id": item.run_id, "deleted": iso_time(item.deleted)} for item in found])
        elif found:
            rows = [(item.run_id, age_text(item.deleted)) for item in found]
            print_table(console(), [Column("run", fold=True), Column("deleted")], rows)
        else:
            echo("the trash is empty")
        return
    matches = [item for item in found if item.run_id == run]
    if not matches and has_record(RunDirectory(place / run)):
        raise RunError(f"run {run} is not deleted: it is in {place / run}")
    matches = matches or [item for item in found if item.run_id.startswith(run)]
    if not matches:
        raise RunError(
            f"no run '{run}' in the trash of {place}", remedy="'forge runs restore' lists them"
        )
    names = sorted({item.run_id for item in matches})
    if len(names) > 1:
        raise UsageError(f"'{run}' matches {', '.join(names)}", remedy="give more of the id")
    directory = restore_run(place, matches[0])
    if as_json:
        emit_json({"id": directory.id, "directory": str(directory.path)})
    else:
        echo(f"{directory.id} is back in {directory.path}")


def gc(
    older_than: OlderThan = "30d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be deleted, and delete nothing.")
    ] = False,
    yes: Yes = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Delete for good what has been in the trash for long enough."""
    from llmforge.errors import UsageError
    from llmforge.insight.summary import iso_time, parse_length
    from llmforge.progress import size_text
    from llmforge.rundir.trash import deleted_runs, remove_deleted

    before = time.time() - parse_length(older_than)
    found = [item for item in deleted_runs(run_root(root)) if item.deleted <= before]
    if not found and not as_json:
        echo(f"nothing in the trash of {run_root(root)} was deleted more than {older_than} ago")
        return
    sizes = [_size(item.directory.path) for item in found]
    total = f"{_count(len(found))}, {size_text(sum(sizes))}"
    listed = [
        {"id": item.run_id, "deleted": iso_time(item.deleted), "bytes": size}
        for item, size in zip(found, sizes, strict=True)
    ]
    if not as_json:
        _print_deleted(found, sizes)
    if found and not (yes or dry_run):
        if as_json or not interactive():
            raise UsageError(
                f"deleting {total} for good needs a yes, and there is no terminal to ask on",
                remedy=f"forge runs gc --older-than {older_than} --yes",
            )
        typer.confirm(f"\nDelete {total} for good?", abort=True)
    for item in () if dry_run else found:
        remove_deleted(item)
    if as_json:
        emit_json(listed)
    elif dry_run:
        echo(f"\nwould delete {total} for good")
    else:
        echo(f"deleted {total}")


def _print_deleted(found: Sequence[DeletedRun], sizes: Sequence[int]) -> None:
    from llmforge.cli.render import Column, age_text, print_table
    from llmforge.progress import size_text

    rows = [
        (item.run_id, age_text(item.deleted), size_text(size))
        for item, size in zip(found, sizes, strict=True)
    ]
    columns = [Column("run", fold=True), Column("deleted"), Column("size", right=True)]
    print_table(console(), columns, rows)


def _loss(directory: RunDirectory) -> str:
    """Return what is only in this run's directory, in words."""
    from llmforge.checkpoint import list_checkpoints
    from llmforge.progress import size_text
    from llmforge.rundir.uploads import read_kept, read_uploads

    if not directory.path.exists():
        return "only its completion is here"
    steps = [item.step for item in list_checkpoints(directory.checkpoints)]
    uploads = read_uploads(directory)
    safe = {step for step, record in uploads.items() if record.state == "committed"}
    safe |= read_kept(directory).keys()
    only_here = [step for step in steps if step not in safe]
    size = size_text(_size(directory.path))
    if not steps:
        return f"{size}, no checkpoints"
    if not only_here:
        return f"{size}, all {_count(len(steps), 'checkpoint')} uploaded"
    return f"{size}, not uploaded: {_steps(only_here)}"


def _steps(steps: Sequence[int]) -> str:
    shown = ", ".join(f"step {step:,}" for step in steps[-3:])
    more = len(steps) - 3
    return f"{shown} and {more} earlier checkpoint{'s' if more > 1 else ''}" if more > 0 else shown


def _size(path: Path) -> int:
    """Return how many bytes the files below ``path`` have; some may be gone meanwhile."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(folder) / name).lstat().st_size
    return total


def _count(number: int, what: str = "run") -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
