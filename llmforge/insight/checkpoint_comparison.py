"""Checkpoints side by side: metrics, recipes, and how far their weights are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmforge.checkpoint import Checkpoint
from llmforge.export.run_facts import flattened
from llmforge.insight.checkpoint_facts import CheckpointFacts, checkpoint_facts
from llmforge.insight.compare import read_recipe
from llmforge.insight.tensor_statistics import stored_weights
from llmforge.insight.weight_distance import WeightDistances, weight_distances
from llmforge.rundir import RunDirectory

Values = Mapping[str, Sequence[Any]]
"""A value of each checkpoint by name; None where one has none."""

_PLACES = ("run.root", "run.id")
"""Keys that say where a run is, not what it does."""


@dataclass(frozen=True, kw_only=True)
class CheckpointComparison:
    """How checkpoints differ.

    Attributes:
        metrics: what was measured, whether it differs or not.
        recipe: recipe keys with different values.
        frozen: hashes of the frozen weights, where they differ.
        distances: of each but the first from the first.
    """

    metrics: Values
    recipe: Values
    frozen: Sequence[str | None]
    distances: Sequence[WeightDistances]


def compare_checkpoints(checkpoints: Sequence[Checkpoint]) -> CheckpointComparison:
    """Compare ``checkpoints`` with the first of them.

    Raises:
        CheckpointError: weights are missing or damaged.
        RunError: a recipe or the metrics of a run cannot be read.
    """
    facts = [checkpoint_facts(checkpoint) for checkpoint in checkpoints]
    recipes = [flattened(read_recipe(RunDirectory(item.path))) for item in checkpoints]
    hashes = [
        None if item.manifest.frozen is None else item.manifest.frozen.sha256
        for item in checkpoints
    ]
    weights = [stored_weights(checkpoint.path) for checkpoint in checkpoints]
    return CheckpointComparison(
        metrics=_side_by_side([_measured(item) for item in facts]),
        recipe={
            name: values
            for name, values in _side_by_side(recipes).items()
            if name not in _PLACES and any(value != values[0] for value in values)
        },
        frozen=hashes if len(set(hashes)) > 1 else [],
        distances=[weight_distances(weights[0], other) for other in weights[1:]],
    )


def _measured(facts: CheckpointFacts) -> dict[str, Any]:
    loss, trend, progress = facts.loss, facts.trend, facts.progress
    found: dict[str, Any] = {
        "step": progress.step,
        "epoch": progress.epoch,
        "tokens_seen": progress.tokens,
        **facts.metrics,
        "best": (facts.best or {}).get("value"),
        "best step": (facts.best or {}).get("step"),
        "mean loss": None if loss is None else loss.mean,
        "trend": None if trend.slope is None else trend.direction,
        "size": facts.info.size,
        "parameters": None if facts.weights is None else facts.weights.parameters,
    }
    return {name: value for name, value in found.items() if value is not None}


def _side_by_side(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [column.get(name) for column in columns] for name in names}
