"""Predicting the labels of an evaluation, and measuring them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pluggy
import torch

from llmforge.data.example_batches import example_evaluation_batches
from llmforge.data.example_rows import ExampleSplit
from llmforge.distributed import Alone, Team
from llmforge.interfaces import IGNORE_INDEX, Batch, Engine, LabelPredictor, Metric, RunContext
from llmforge.recipe import Recipe
from llmforge.run.training.answers import metrics_that_need
from llmforge.run.training.evaluation import own_batches

LABELS = "labels"
"""What a metric needs that is measured here."""

_ALONE = Alone()


class LabelMetrics:
    """Measures the recipe's metrics over labels that the model predicts, of a whole split.

    Args:
        recipe: says which metrics.
        manager: has them.
        run: context for the hooks.
        engine: holds the model.
        split: texts with labels.
        rows: texts that are read at once.
        team: ranks that take turns at the batches and get the same values.
    """

    phase = "labelling"

    def __init__(
        self,
        recipe: Recipe,
        *,
        manager: pluggy.PluginManager,
        run: RunContext,
        engine: Engine,
        split: ExampleSplit,
        rows: int,
        team: Team,
    ) -> None:
        self._recipe = recipe
        self._manager = manager
        self._run = run
        self._engine = engine
        self._split = split
        self._rows = rows
        self._team = team

    def measure(self, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Return ``val/{name}`` of each value, or None when ``stop`` said so.

        Args:
            stop: asked before each batch; the same on all ranks.
        """
        batches = example_evaluation_batches(
            self._split,
            context=self._recipe.context,
            batch_size=min(self._rows, self._split.rows),
            ranks=self._team.place.world_size,
        )
        with self._engine.gathered() as model:
            model.eval()
            try:
                return measure_labels(
                    model,  # type: ignore[arg-type]
                    metrics_that_need(LABELS, self._recipe, self._manager, self._run),
                    batches,
                    device=self._engine.device,
                    name="val",
                    stop=stop,
                    team=self._team,
                )
            finally:
                model.train()


def measure_labels(
    model: LabelPredictor,
    metrics: Mapping[str, Metric],
    batches: Iterable[Batch],
    *,
    device: torch.device,
    name: str,
    stop: Callable[[], bool] = lambda: False,
    team: Team = _ALONE,
) -> dict[str, float] | None:
    """Return the values of ``metrics`` over the labels that ``model`` predicts.

    Args:
        model: in evaluation mode.
        metrics: new ones.
        batches: of all ranks.
        device: where the model is.
        name: prefix of the values: ``val`` or ``test``.
        stop: asked before each batch.
        team: ranks that take turns at the batches.

    Returns:
        The values, or None when ``stop`` said so.
    """
    for batch in own_batches(batches, team.place):
        if stop():
            return None
        predicted = model.labels({key: tensor.to(device) for key, tensor in batch.items()})
        pairs = zip(predicted.tolist(), batch["targets"].tolist(), strict=True)
        mine = [pair for pair in pairs if pair[1] != IGNORE_INDEX]
        for found in team.gather(mine):
            if not found:
                continue
            for metric in metrics.values():
                metric.update([pair[0] for pair in found], [pair[1] for pair in found])
    return {
        f"{name}/{key}": float(value)
        for metric in metrics.values()
        for key, value in metric.compute().items()
    }
