"""Opening a run: its record, started or continued."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from llmforge.checkpoint.format import open_checkpoint, step_directories, verify
from llmforge.errors import RunError
from llmforge.plugins import entries
from llmforge.recipe import Recipe
from llmforge.run.plan import Plan, check_identity
from llmforge.run.setup.provenance import provenance
from llmforge.run_root import root_option
from llmforge.rundir import RunDirectory, RunRecord, next_attempt, read_record
from llmforge.rundir.atomic import DISK_FULL

_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR})
"""Error numbers of files that are there and may not be used as the run needs them."""


def open_record(plan: Plan, *, attempt: int | None = None) -> RunRecord:
    """Return the run's record with this start noted in it, and write nothing.

    A run whose starts all failed before their data were ready has nothing to protect: under an id
    of the user's own it takes the recipe as it is now.

    Args:
        plan: the run.
        attempt: the number of a run that begins; counted from the cleared ones here when None.

    Raises:
        RunError: the directory is a run of a different recipe, or nothing says whose it is.
    """
    directory = plan.directory
    now = time.time()
    if directory.record.exists():
        record = read_record(directory)
        if _came_to_nothing(directory, record):
            # A mistake that was mended since is not another run: begin with what is right now.
            shutil.rmtree(directory.tokenizer, ignore_errors=True)
            record.identity = dataclasses.asdict(plan.identity)
        check_identity(plan, record)
        record = dataclasses.replace(record, restarts=record.restarts + 1)
    elif directory.checkpoints.exists():
        raise RunError(
            f"{directory.path} has checkpoints but no run.json, so nothing says whose they are",
            remedy=f"forge runs clear {plan.run_id}{root_option(plan.root)} keeps them aside and "
            "starts afresh",
        )
    else:
        record = RunRecord(
            plan.run_id,
            attempt=attempt or next_attempt(plan.root, plan.run_id),
            restarts=1,
            created=now,
            identity=dataclasses.asdict(plan.identity),
        )
    record.state, record.exit_reason = "running", ""
    record.started, record.ended = now, None
    record.name = record.name or display_name(plan.recipe, run_id=plan.run_id, time=record.created)
    record.profile, record.tags = plan.recipe.profile, list(plan.recipe.run.tags)
    record.provenance = {**provenance(_distributions(plan)), "seed": plan.recipe.run.seed}
    return record


def require_trace_ahead(plan: Plan, *, resume: Path | None) -> None:
    """Refuse to trace steps that were taken already, before the run's record says that it failed.

    Args:
        plan: the run.
        resume: the checkpoint to go back to; None: the newest that is sound.

    Raises:
        UsageError: all steps to trace were taken before the checkpoint.
        CheckpointError: a checkpoint may not be read.
    """
    if plan.trace is None:
        return
    saved = step_directories(plan.directory.checkpoints) if resume is None else []
    for step, path in reversed(saved):
        # A damaged one is gone back behind; a range that lies ahead needs no hashing to be so.
        if step >= plan.trace.last and not verify(path):
            plan.trace.require_not_taken(step)
    if resume is not None:
        plan.trace.require_not_taken(open_checkpoint(resume).step)


@contextlib.contextmanager
def disk_errors_told(plan: Plan) -> Iterator[None]:
    """Turn the error of a full disk, or of a run that may not be written, into one with a remedy.

    Other errors of the operating system pass: they are not about the run's own files.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or plan.directory.path
        if error.errno in DISK_FULL:
            raise RunError(
                f"no room to write {place}: {error.strerror}",
                remedy="free some space, or choose another disk with run.root; the checkpoints "
                "are untouched, and the same command resumes from the newest",
            ) from error
        if error.errno not in _REFUSED or not _is_inside(place, plan.root):
            raise
        raise RunError(
            f"{place} cannot be used: {error.strerror}",
            remedy="make it readable and writable, or choose another place with run.root",
        ) from error


def _came_to_nothing(directory: RunDirectory, record: RunRecord) -> bool:
    """Return whether no start of the run got as far as having its data and a first step."""
    return not record.fingerprints and not directory.checkpoints.exists()


def _is_inside(place: str | bytes | int | Path, root: Path) -> bool:
    path = Path(os.fsdecode(place)) if isinstance(place, str | bytes | Path) else None
    return path is not None and path.absolute().is_relative_to(root.absolute())


def _distributions(plan: Plan) -> list[str]:
    """Return the packages the selected components come from."""
    return [
        entries(kind)[item.name].distribution
        for kind, selected in plan.recipe.selections.items()
        for item in selected
    ]


TIMESTAMP = "%Y%m%d-%H%M%S"
"""How ``{timestamp}`` is written, in local time."""


def display_name(recipe: Recipe, *, run_id: str, time: float) -> str:
    """Return the display name of a run from its template ``run.name``.

    Args:
        recipe: has the template, the model and the profile. Without a profile ``{profile}`` is
            left out together with the separator before it.
        run_id: the run's id, which is also the name when the template gives none.
        time: of the first start, in seconds since the epoch.
    """
    template = recipe.run.name
    if recipe.profile is None:
        template = re.sub(r"^\{profile\}[-_. /]?|[-_. /]?\{profile\}", "", template)
    values = {
        "{model}": model_name(recipe),
        "{profile}": recipe.profile or "",
        "{timestamp}": datetime.fromtimestamp(time).strftime(TIMESTAMP),
        "{run_id}": run_id,
    }
    for placeholder, value in values.items():
        template = template.replace(placeholder, value)
    return template or run_id


def tracker_tags(recipe: Recipe, *, run_id: str) -> list[str]:
    """Return the recipe's own tags, then model, profile and type of the run, each once."""
    kind = "trial" if run_id.startswith("tune_") else "single"
    tags = [*recipe.run.tags, model_name(recipe), recipe.profile, kind]
    return list(dict.fromkeys(tag for tag in tags if tag))


def model_name(recipe: Recipe) -> str:
    """Return the model component's name, with the preset when the recipe chooses one."""
    model = recipe.selected("model")
    chosen = "preset" in model.options.model_fields_set
    return f"{model.name}-{getattr(model.options, 'preset')}" if chosen else model.name  # noqa: B009
