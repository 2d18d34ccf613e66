"""Whether the examples of a run share rows, and how a run says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmforge.data.example_batches import ExampleBatches
from llmforge.data.example_rows import ExampleSplit
from llmforge.interfaces import ExampleData, Objective, RunContext
from llmforge.plugins import load

if TYPE_CHECKING:
    from llmforge.run.setup.build import PreparedData

_SEGMENTS = "segments"
"""What a model supports that keeps the examples of one row apart."""


def packs_examples(data: object, run: RunContext, objective: Objective) -> bool:
    """Return whether examples share rows: when data, objective and model all agree.

    It decides which examples make a batch, so a model that learns to keep examples apart later does
    not change a run that has started.
    """
    if not isinstance(data, ExampleData) or data.layout.packing is False:
        return False
    if objective.form != Objective.form or not objective.packs:
        return False
    kept = run.resolved.get("packed", not run.resolved)
    return bool(kept) and _SEGMENTS in load("model", run.config["model"]["name"]).supports


def packing_line(prepared: PreparedData, run: RunContext, *, micro: int) -> str | None:
    """Return how training examples are in rows, and the share of padding; None for text.

    Args:
        prepared: the data.
        run: whose context the rows have, and whose model decides.
        micro: rows of a micro-batch, which are padded to the longest of them.
    """
    batches, data = prepared.batches, prepared.data
    if not isinstance(batches, ExampleBatches) or not isinstance(data, ExampleData):
        return None
    rows = prepared.splits["train"]
    assert isinstance(rows, ExampleSplit)
    if (sequences := rows.objective.sequences) > 1:
        return (
            f"train: {rows.rows:,} examples of {sequences} sequences, each in a row of its own "
            "(the objective packs none)"
        )
    if rows.objective.form != Objective.form:
        return None  # what is padding in its batches only the objective knows
    if batches.packed:
        how = f"in {batches.n_windows:,} packed rows of {run.context}"
    elif data.layout.packing is False:
        how = "in rows of their own (packing = false), those of like length together"
    elif not rows.objective.packs:
        how = "in rows of their own (the objective packs none)"
    else:
        model = run.config["model"]["name"]
        how = f"in rows of their own (model '{model}' does not keep packed ones apart)"
    return f"train: {rows.rows:,} examples {how}, {batches.padding(micro):.0%} padding"


def rows_in_numbers(prepared: PreparedData, *, micro: int) -> dict[str, Any]:
    """Return what :func:`packing_line` says of examples, as numbers."""
    batches, rows = prepared.batches, prepared.splits["train"]
    assert isinstance(batches, ExampleBatches) and isinstance(rows, ExampleSplit)
    known = rows.objective.form == Objective.form
    return {
        "packed": batches.packed,
        "count": batches.n_windows,
        "padding": round(batches.padding(micro), 4) if known else None,
    }
