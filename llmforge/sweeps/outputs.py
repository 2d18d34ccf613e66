"""What a sweep leaves behind for people, written anew whenever it stops."""

from __future__ import annotations

from pathlib import Path

from llmforge.sweeps.best import write_best
from llmforge.sweeps.summary import summarize
from llmforge.sweeps.sweep import Sweep


def write_outputs(sweep: Sweep) -> list[Path]:
    """Write the sweep's outputs as far as its trials allow; return the files."""
    trials = sweep.ledger().trials()
    summary = summarize(trials, sweep.space, direction=sweep.recipe.sweep.direction)
    best = write_best(sweep, summary)
    return [] if best is None else [best]
