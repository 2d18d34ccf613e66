"""``forge runs clear``: setting a run aside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import echo, emit_json, interactive, run_root
from llmforge.cli.runs_storage import begin_next_attempt

if TYPE_CHECKING:
    from llmforge.rundir import RunDirectory


def clear(
    run: options.Run,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Set a run and its completion aside, so that the same recipe trains afresh."""
    from llmforge.errors import RunError, RunLockedError, UsageError
    from llmforge.rundir import RunDirectory, clear_run, entry_of, has_record, next_attempt

    directory = _clearable(run_root(root), run)
    state = entry_of(directory).state if has_record(directory) else "not readable"
    if state == "running":
        raise RunLockedError(
            f"run {directory.id} is being trained",
            remedy=f"stop it first; 'forge runs status {directory.id}' says where it runs",
        )
    if not yes:
        if as_json or not interactive():
            raise UsageError(
                f"clearing {directory.id} needs a yes, and there is no terminal to ask on",
                remedy=f"forge runs clear {directory.id} --yes",
            )
        typer.confirm(f"Set run {directory.id} ({state}) aside?", abort=True)
    aside = clear_run(directory.root, directory.id)
    if aside is None:
        raise RunError(f"run {directory.id} is gone already")
    if as_json:
        emit_json({"id": directory.id, "state": state, "directory": str(aside)})
        return
    echo(f"{directory.id} is now in {aside}")
    echo("its completion is cleared: the next 'forge train' of its recipe starts fresh")
    begin_next_attempt(
        directory,
        attempt=next_attempt(directory.root, directory.id),
        aside=RunDirectory(aside),
    )


def _clearable(root: Path, text: str) -> RunDirectory:
    """Return the run to clear; a directory of exactly this name need not hold a record."""
    from llmforge.errors import UsageError
    from llmforge.rundir import RunDirectory, find_run, has_record
    from llmforge.rundir.layout import ARCHIVE

    exact = RunDirectory(root / text)
    known = has_record(exact) or exact.checkpoints.is_dir()
    found = exact if known else find_run(root, text, gone=True)
    if found.root.name == ARCHIVE:
        raise UsageError(f"{found.id} is cleared already and is in {found.path}")
    return found
