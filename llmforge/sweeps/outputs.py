"""What a sweep leaves behind for people, written anew whenever it stops."""

from __future__ import annotations

from pathlib import Path

from llmforge.sweeps.best_recipe import write_best
from llmforge.sweeps.plots import Drawing, write_plots
from llmforge.sweeps.report import write_report
from llmforge.sweeps.summary import summarize
from llmforge.sweeps.sweep import Sweep


def write_outputs(sweep: Sweep) -> list[Path]:
    """Write the best recipe, the pictures and the page, as far as the trials allow."""
    trials = sweep.ledger().trials()
    if not trials:
        return []
    keys = sweep.recipe.sweep
    summary = summarize(trials, sweep.space, direction=keys.direction)
    drawing = Drawing(
        sweep_id=sweep.id,
        metric=keys.metric,
        direction=keys.direction,
        space=sweep.space,
        trials=trials,
    )
    pictures = write_plots(drawing, sweep.directory.plots)
    best = write_best(sweep, summary)
    report = write_report(sweep, trials, summary, pictures)
    return [*pictures, *([] if best is None else [best]), report]
