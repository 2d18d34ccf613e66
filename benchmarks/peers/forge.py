"""llmforge's own loop, through a recipe, as ``forge train`` runs it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge import train
from llmforge.run.reporting.reporter import Reporter
from peers.case import Case, Clock

_GPT2 = {"positions": "learned", "norm": "layernorm", "activation": "gelu", "bias": True}


class Times(Reporter):
    """Tells the clock about logged steps."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def step(self, row: Mapping[str, Any], timing: Mapping[str, Any], *, total: int) -> None:
        """Take the time of a step, once its row is written."""
        super().step(row, timing, total=total)
        self._clock.after_step(row["step"])


def run(case: Case, *, precision: str) -> None:
    """Train a recipe."""
    with tempfile.TemporaryDirectory(dir=case.folder) as folder:
        recipe = Path(folder) / "recipe.toml"
        recipe.write_text(_toml(_tables(case, precision, runs=folder)), encoding="utf-8")
        clock = Clock(case)
        result = train(recipe, reporter=Times(clock))
        clock.report(result.metrics["train/loss"])


def _tables(case: Case, precision: str, *, runs: str) -> dict[str, dict[str, Any]]:
    """Return the recipe: text, logging and checkpoints like in any run, no tracker.

    It continues past the clock, so that the evaluation at a run's end, which no other contender
    makes, is not timed.
    """
    return {
        "run": {"root": runs},
        "model": {"name": "transformer"},
        "model.transformer": {
            "layers": case.layers,
            "width": case.width,
            "heads": case.heads,
            "context": case.context,
            **({} if case.default_model else _GPT2),
        },
        "tokenizer": {"name": "hf"},
        "tokenizer.hf": {"source": str(Path(case.folder) / "tokenizer.json")},
        "data": {"name": "text"},
        "data.text": {
            "path": str(Path(case.folder) / "words.txt"),
            "document": "line",
            "validation_fraction": 0.02,
        },
        "train": {
            "max_steps": case.total_steps + case.log_every,
            "batch_size": case.batch,
            "precision": precision,
            "compile": case.compiled,
            "log_every": case.log_every,
        },
        "optimizer": {"name": "adamw"},
        "optimizer.adamw": {"lr": 1e-3, "weight_decay": 0.1, "beta2": 0.95},
        "schedule": {"name": "cosine"},
        "checkpoint": (
            {"every": case.checkpoint_every} if case.checkpoint_every else {"enabled": False}
        ),
        "tracker": {"names": []},
    }


def _toml(tables: dict[str, dict[str, Any]]) -> str:
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )
