"""Several runs side by side: recipe keys that differ, and the results of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmforge.errors import RunError
from llmforge.insight.compare import recipe_values
from llmforge.insight.summary import summarize
from llmforge.redaction import redact_values
from llmforge.rundir import RunEntry


def compared(entries: Sequence[RunEntry]) -> dict[str, Any]:
    """Return what differs between runs, and their results.

    Returns:
        ``runs`` (id, name, state, step), ``recipe`` and ``metrics`` as lists of ``name`` and
        ``values``, one per run, None where a run has none; of the recipe only keys that differ.
    """
    problems: list[str] = []
    recipes = [_recipe(entry, problems) for entry in entries]
    results = [_results(entry) for entry in entries]
    recipe = [row for row in _rows(recipes) if len({repr(value) for value in row["values"]}) > 1]
    return {
        "runs": [_named(entry) for entry in entries],
        "recipe": redact_values(recipe),
        "metrics": _rows(results),
        "problems": problems,
    }


def _named(entry: RunEntry) -> dict[str, Any]:
    record = entry.record
    return {
        "id": entry.directory.id,
        "name": record.name,
        "state": entry.state,
        "step": record.step,
        "total_steps": record.total_steps,
    }


def _recipe(entry: RunEntry, problems: list[str]) -> dict[str, Any]:
    try:
        return recipe_values(entry)
    except RunError as error:
        problems.append(str(error))
        return {}


def _results(entry: RunEntry) -> dict[str, Any]:
    run, metrics = summarize(entry), entry.record.metrics
    best = metrics.get("best") or {}
    found = {"best val/loss": run.best_loss, "best step": best.get("step"), "step": run.step}
    found |= {
        name: value
        for name, value in metrics.items()
        if isinstance(value, int | float) and name != "step"
    }
    found |= {"duration_seconds": run.duration}
    return {name: value for name, value in found.items() if value is not None}


def _rows(of_runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for values in of_runs for name in values)
    return [{"name": name, "values": [item.get(name) for item in of_runs]} for name in names]
