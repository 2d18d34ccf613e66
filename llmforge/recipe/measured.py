"""What the evaluations of a recipe measure, and whether more or less of it is better."""

from __future__ import annotations

from collections.abc import Mapping

from llmforge.component import Component
from llmforge.interfaces import Direction
from llmforge.plugins import load
from llmforge.recipe.resolved import Selection
from llmforge.recipe.schema import EVALUATED

Selections = Mapping[str, tuple[Selection, ...]]

_PREFIX = "val/"


def selected_metrics(selections: Selections) -> dict[str, Component]:
    """Return fresh instances of the selected metrics by name, in order."""
    return {
        item.name: load("metric", item.name)(item.options) for item in selections.get("metric", ())
    }


def measured(selections: Selections) -> dict[str, Direction]:
    """Return every metric of an evaluation with its direction."""
    objective = [
        load("objective", item.name)(item.options) for item in selections.get("objective", ())
    ]
    # one that measures something itself has a loss of its own, which is no cross-entropy
    own_loss = any(component.measures for component in objective)
    losses = EVALUATED[:1] if own_loss else EVALUATED
    found: dict[str, Direction] = dict.fromkeys(losses, "minimize")
    for component in (*objective, *selected_metrics(selections).values()):
        found |= {f"{_PREFIX}{name}": component.direction for name in component.measures}
    return found


def metric_direction(selections: Selections, metric: str) -> Direction:
    """Return whether more or less of ``metric`` is better; less of what nobody knows."""
    return measured(selections).get(metric, "minimize")
