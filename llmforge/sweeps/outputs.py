"""What a sweep leaves behind for people, written again whenever it stops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.recipe import to_toml
from llmforge.recipe.load import merged_tables
from llmforge.recipe.toml import parse_key
from llmforge.rundir.atomic import write_text
from llmforge.sweeps.plots import Drawing, write_plots
from llmforge.sweeps.report import write_report
from llmforge.sweeps.summary import Summary, summarize
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


def write_best(sweep: Sweep, summary: Summary) -> Path | None:
    """Write the recipe of the best trial; return the file, None before a trial is completed.

    It is the sweep's own recipe without the sweep, the best values in the place of the others.
    """
    best, trial = summary.best, summary.best_trial
    if best is None or trial is None:
        return None
    overrides: dict[str, Any] = {**sweep.space.with_ties(best.parameters), "sweep": None}
    tables = merged_tables(
        sweep.directory.recipe, profile=sweep.recipe.profile, overrides=overrides
    )
    tables.pop("profile", None)
    keys = sweep.recipe.sweep
    spread = "" if summary.spread is None else f", spread {summary.spread:.4g}"
    head = [
        f"# The best of {summary.states.get('completed', 0)} completed trials of {sweep.id}",
        f"# {keys.metric} {best.value:.6g}{spread} in {trial.run.get('id', '')}",
        *(f"# {key} = {_value(tables, key)}" for key in overrides if key != "sweep"),
    ]
    write_text(sweep.directory.best, "\n".join(head) + "\n\n" + to_toml(tables))
    return sweep.directory.best


def _value(tables: Mapping[str, Any], key: str) -> Any:
    node: Any = tables
    for part in parse_key(key):
        node = node[part]
    return node
