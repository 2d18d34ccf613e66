"""llmforge's validation loss by tokens and seconds, from a recipe, as ``forge train`` runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import llmforge
from llmforge.run.reporting.reporter import Reporter
from peers.loss_curve import Curve, Race


class Looks(Reporter):
    """Stops the clock for evaluations and takes their losses."""

    def __init__(self, curve: Curve) -> None:
        super().__init__()
        self._curve = curve
        self._steps = False

    def say(self, text: str) -> None:
        """Begin again at what is said last before the first step."""
        super().say(text)
        if not self._steps:
            self._curve.restart()

    def step(self, row: Mapping[str, Any], timing: Mapping[str, Any], *, total: int) -> None:
        """Know that training has begun."""
        self._steps = True
        super().step(row, timing, total=total)

    def phase(self, text: str) -> None:
        """Stop the clock for anything that is no training."""
        super().phase(text)
        self._curve.stop()

    def evaluation(self, step: int, values: Mapping[str, float], *, is_best: bool) -> None:
        """Keep a loss and go on."""
        super().evaluation(step, values, is_best=is_best)
        self._curve.note(step, values["val/bits_per_byte"])
        self._curve.start()


def settings(race: Race, *, root: str) -> list[str]:
    """Return what a recipe is changed by, so that it is about this text."""
    return [
        f'run.root="{root}"',
        f"run.seed={race.seed}",
        'data.name="text"',
        f'data.text.train="{race.train}"',
        f'data.text.validation="{race.validation}"',
        f"tokenizer.bpe.vocab_size={race.vocabulary}",
        f"eval.every={race.every}",
        f"train.log_every={race.every}",
        *race.changes,
    ]


def run(race: Race) -> None:
    """Train the recipe."""
    curve = Curve()
    with tempfile.TemporaryDirectory(dir=race.folder) as root:
        result = llmforge.train(
            race.recipe,
            profile=race.profile,
            overrides=settings(race, root=root),
            reporter=Looks(curve),
        )
        row = next(row for row in reversed(result.run.metrics()) if row.get("tokens_seen"))
        per_step = row["tokens_seen"] / row["step"]
    for point in curve.points:
        point["tokens"] *= per_step
    curve.report()


def write_tokens(race: Race) -> None:
    """Write the tokens of both texts for those who have no tokenizer of their own."""
    from tokenizers import Tokenizer

    with tempfile.TemporaryDirectory(dir=race.folder) as root:
        changes = [*settings(race, root=root), "train.max_steps=1"]
        result = llmforge.train(race.recipe, overrides=changes)
        tokenizer = Tokenizer.from_file(str(result.run.directory.tokenizer / "tokenizer.json"))
    for name, path in (("train", race.train), ("validation", race.validation)):
        ids = tokenizer.encode(Path(path).read_text(encoding="utf-8")).ids
        np.save(Path(race.folder) / f"{name}.npy", np.array(ids, dtype=np.uint16))
