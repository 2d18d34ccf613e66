"""llmforge's own loop on instructions, through a recipe, as ``forge train`` runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge import train
from llmforge.recipe import load_recipe
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.setup.build import data_ahead
from peers.forge import _GPT2, _toml
from peers.instructions import Instructions, Meter


class Times(Reporter):
    """Tells the meter about steps, every one of which is logged."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def step(self, row: Mapping[str, Any], timing: Mapping[str, Any], *, total: int) -> None:
        """Take the time of a step, once its row is written."""
        super().step(row, timing, total=total)
        self._meter.after_step(row["step"])


def run(case: Instructions, *, packing: bool, pretrained: bool) -> None:
    """Train a recipe; ``pretrained`` takes the model of Hugging Face instead of llmforge's own."""
    with tempfile.TemporaryDirectory(dir=case.folder) as folder:
        recipe = Path(folder) / "recipe.toml"
        recipe.write_text(_toml(_tables(case, packing, pretrained, runs=folder)), encoding="utf-8")
        meter = Meter(case)
        result = train(recipe, reporter=Times(meter))
        with data_ahead(load_recipe(recipe), notice=print) as (_, prepared):
            batches = prepared.batches
            for step in range(case.total_steps):
                first, after = step * case.batch, (step + 1) * case.batch
                meter.step = step
                meter.count(
                    real=batches.tokens(after) - batches.tokens(first),
                    scored=batches.targets(first, case.batch),
                )
        meter.report(result.metrics["train/loss"])


def _tables(
    case: Instructions, packing: bool, pretrained: bool, *, runs: str
) -> dict[str, dict[str, Any]]:
    """Return the recipe: logging like in any run, no checkpoints, which no contender writes.

    It continues past the clock, so that the evaluation at a run's end is not timed.
    """
    folder = Path(case.folder)
    adapter: dict[str, dict[str, Any]] = {}
    if case.lora:
        lora = {"r": case.lora, "alpha": 2 * case.lora, "targets": "all-linear"}
        adapter = {"adapter": {"name": "lora"}, "adapter.lora": lora}
    return {
        "run": {"root": runs},
        **_model(case, pretrained),
        **adapter,
        "tokenizer": {"name": "hf"},
        "tokenizer.hf": {"source": str(folder / "tokenizer.json"), "end_of_text": "w0"},
        "data": {"name": "instruct"},
        "data.instruct": {
            "path": str(folder / "rows.jsonl"),
            "template": "plain",
            "validation_fraction": 0.005,
            "packing": "auto" if packing else False,
        },
        "train": {
            "max_steps": case.total_steps + 1,
            "batch_size": case.batch,
            "precision": case.precision,
            "log_every": 1,
        },
        "optimizer": {"name": "adamw"},
        "optimizer.adamw": {"lr": 1e-4, "weight_decay": 0.1, "beta2": 0.95},
        "schedule": {"name": "cosine"},
        "checkpoint": {"enabled": False},
        "tracker": {"names": []},
    }


def _model(case: Instructions, pretrained: bool) -> dict[str, dict[str, Any]]:
    if pretrained:
        options = {"path": str(Path(case.folder) / "gpt2"), "context": case.context}
        return {"model": {"name": "hf-causal"}, "model.hf-causal": options}
    shape = {"layers": case.layers, "width": case.width, "heads": case.heads}
    options = {**shape, "context": case.context, **_GPT2}
    return {"model": {"name": "transformer"}, "model.transformer": options}
