"""What is made of a run that has ended: curves, and its model for other programs.

One that cannot be made costs the artifact, not the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from llmforge.errors import ForgeError
from llmforge.recipe import Recipe
from llmforge.run.plan import Plan
from llmforge.run_root import root_option
from llmforge.rundir import RunDirectory

log = logging.getLogger("llmforge.run")

Finisher = Callable[[RunDirectory], Sequence[Path]]
"""Makes further artifacts of a run that has ended (its curves); returns the files."""

Exporter = Callable[[RunDirectory, Recipe, Callable[[str], None]], None]
"""Writes the model of a run that has ended for other programs; told what to notice."""


def make_artifacts(
    finishers: Sequence[Finisher], directory: RunDirectory, *, notice: Callable[[str], None]
) -> list[Path]:
    """Return the files that the finishers made."""
    made: list[Path] = []
    for finisher in finishers:
        try:
            made += finisher(directory)
        except (ForgeError, ValueError) as error:
            notice(f"an artifact could not be made: {error}")
    return made


def export_model(exporter: Exporter, plan: Plan, *, notice: Callable[[str], None]) -> None:
    """Write the model for other programs."""
    try:
        exporter(plan.directory, plan.recipe, notice)
    except Exception as error:  # whatever a model's own library raises
        told = error if isinstance(error, ForgeError) else ForgeError(repr(error))
        reason, remedy = told.reason, f" ({told.remedy})" if told.remedy else ""
        command = f"forge export {plan.run_id} --to {plan.directory.export}{root_option(plan.root)}"
        notice(f"the model was not exported: {reason}{remedy}; later: {command}")
        log.debug("the export failed", exc_info=True)
