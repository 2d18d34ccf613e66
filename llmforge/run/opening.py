"""Opening a run: its record, begun or continued."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from llmforge.errors import RunError
from llmforge.plugins import entries
from llmforge.run.plan import Plan, check_identity
from llmforge.run.provenance import provenance
from llmforge.rundir import RunRecord, next_attempt, read_record
from llmforge.rundir.atomic import DISK_FULL


def open_record(plan: Plan) -> RunRecord:
    """Return the run's record with this start noted in it; nothing is written.

    Raises:
        RunError: the directory is a run of another recipe, or cannot be told whose it is.
    """
    directory = plan.directory
    now = time.time()
    if directory.record.exists():
        record = read_record(directory)
        check_identity(plan, record)
        record = dataclasses.replace(record, restarts=record.restarts + 1)
    elif directory.checkpoints.exists():
        raise RunError(
            f"{directory.path} has checkpoints but no run.json, so nothing says whose they are",
            remedy=f"forge runs clear {plan.run_id} keeps them aside and starts afresh",
        )
    else:
        record = RunRecord(
            plan.run_id,
            attempt=next_attempt(plan.root, plan.run_id),
            restarts=1,
            created=now,
            identity=dataclasses.asdict(plan.identity),
        )
    record.state, record.exit_reason = "running", ""
    record.started, record.ended = now, None
    record.profile, record.tags = plan.recipe.profile, list(plan.recipe.run.tags)
    record.provenance = provenance(_distributions(plan))
    return record


@contextlib.contextmanager
def full_disk_told(plan: Plan) -> Iterator[None]:
    """Turn the error of a full disk, wherever it shows, into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise RunError(
            f"no room to write {error.filename or plan.directory.path}: {error.strerror}",
            remedy="free some space, or choose another disk with run.root; the checkpoints are "
            "untouched, and the same command goes on from the newest",
        ) from error


def _distributions(plan: Plan) -> list[str]:
    """Return the packages the selected components come from."""
    return [
        entries(kind)[item.name].distribution
        for kind, selected in plan.recipe.selections.items()
        for item in selected
    ]
