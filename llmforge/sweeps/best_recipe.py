"""``best.toml``: the recipe of the best trial, ready to be trained, changed or extended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.recipe import to_toml
from llmforge.recipe.key_lines import parse_key
from llmforge.recipe.load import merged_tables
from llmforge.rundir.atomic import write_text
from llmforge.sweeps.summary import Summary
from llmforge.sweeps.sweep import Sweep


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
