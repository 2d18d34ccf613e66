"""Two runs side by side: the recipe keys in which they differ, and their results."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.errors import RunError
from llmforge.insight.flat_recipe import flat
from llmforge.insight.summary import best_loss
from llmforge.rundir import RunDirectory, RunEntry


@dataclass(frozen=True)
class Pair:
    """One value of each run; None where a run has none."""

    name: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Comparison:
    """How two runs differ.

    Attributes:
        recipe: recipe keys with different values.
        resolved: what ``auto`` became, data and tokenizer, where they differ.
        metrics: results of both, whether they differ or not.
    """

    recipe: tuple[Pair, ...]
    resolved: tuple[Pair, ...]
    metrics: tuple[Pair, ...]


def compare(left: RunEntry, right: RunEntry) -> Comparison:
    """Compare two runs.

    Raises:
        RunError: a recipe cannot be read.
    """
    facts = [_facts(entry) for entry in (left, right)]
    return Comparison(
        recipe=tuple(_different(recipe_values(left), recipe_values(right))),
        resolved=tuple(_different(*facts)),
        metrics=tuple(_pairs(results_of(left), results_of(right))),
    )


def recipe_values(entry: RunEntry) -> dict[str, Any]:
    """Return the resolved recipe of a run by dotted key.

    Without a recipe file the identity keys of the record have to do.

    Raises:
        RunError: the recipe file is damaged.
    """
    tables = read_recipe(entry.directory)
    return dict(flat(tables)) if tables else dict(entry.record.identity.get("keys", {}))


def read_recipe(directory: RunDirectory) -> dict[str, Any]:
    """Return the resolved recipe of a run as nested tables; empty when the file is not there.

    Raises:
        RunError: the recipe file is damaged.
    """
    try:
        return tomllib.loads(directory.recipe.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(
            f"{directory.recipe} cannot be read: {error}",
            remedy="each checkpoint of the run has a copy of it",
        ) from error


def _facts(entry: RunEntry) -> dict[str, Any]:
    """Return what ``auto`` became and the data's fingerprints; measurements differ each time."""
    chosen = {
        name: value
        for name, value in entry.record.resolved.items()
        if name not in ("reasons", "matmul_speed", "kernels")
    }
    chosen["kernels"] = entry.record.resolved.get("kernels", {}).get("chosen", {})
    return {**dict(flat(chosen)), **entry.record.fingerprints}


def results_of(entry: RunEntry) -> dict[str, Any]:
    """Return the results of a run by name: state, step, the best loss, every final metric."""
    record = entry.record
    best = record.metrics.get("best") or {}
    values = {"state": entry.state, "step": record.step}
    values |= {"best val/loss": best_loss(record.metrics), "best step": best.get("step")}
    values |= {
        name: value
        for name, value in record.metrics.items()
        if isinstance(value, int | float) and name not in values
    }
    return {name: value for name, value in values.items() if value is not None}


def _pairs(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[Pair]:
    for name in dict.fromkeys([*left, *right]):
        yield Pair(name, left.get(name), right.get(name))


def _different(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Pair]:
    return [pair for pair in _pairs(left, right) if pair.left != pair.right]
