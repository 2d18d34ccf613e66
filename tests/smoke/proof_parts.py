"""Shipped recipes made small enough to be trained again and again, and ``forge prove-resume``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from forge_process import ForgeProcess, Workplace
from library_rows import functions, instructions
from pretrained_folders import save_pretrained

from llmforge.recipe.shipped import shipped_names

SMALL = {"model.transformer.preset": "nano"}
"""Instead of a preset of up to 235 million parameters."""
OFTEN = {"train.max_steps": "12", "eval.every": "4", "checkpoint.every": "4"}
"""Instead of once an epoch, so that there is something to resume from."""


@dataclass(frozen=True)
class Shipped:
    """How a shipped recipe is proved here.

    Attributes:
        profile: its smallest.
        settings: what differs from it.
        model: component that gets a model of random weights instead of one of the hub.
        kind: the model's architecture.
        rows: ``texts``, ``labels`` or ``pairs`` where the recipe is for rows of the user's own.
    """

    profile: str = "test"
    settings: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    kind: str = ""
    rows: str = ""


RECIPES = {
    "alpaca_custom_tiny": Shipped(settings={"tokenizer.bpe.vocab_size": "600"}),
    "alpaca_gpt2": Shipped(model="hf-causal", kind="gpt2"),
    "codebert_classify": Shipped(model="hf-encoder", kind="roberta", rows="labels"),
    "codebert_mlm": Shipped(model="hf-encoder", kind="roberta", rows="texts"),
    "codet5_lora": Shipped(model="hf-seq2seq", kind="t5", rows="pairs"),
    "custom_large": Shipped(settings=SMALL),
    "custom_medium": Shipped(settings=SMALL),
    "custom_nano": Shipped(),
    "custom_small": Shipped(settings=SMALL),
    "custom_tiny": Shipped(),
    "dialogpt_alpaca": Shipped(model="hf-causal", kind="gpt2"),
    "neox_1_2b": Shipped(profile="smoke"),
    "preference_dpo": Shipped(settings={"tokenizer.bpe.vocab_size": "600"}),
    "t5_small": Shipped(model="hf-seq2seq", kind="t5", rows="pairs"),
    "wikitext2": Shipped(),
    "wikitext_speedrun": Shipped(),
    "wikitext_tiny": Shipped(),
    "wikitext_tiny_sweep": Shipped(),
}
TRAINABLE = sorted({*shipped_names()} - {"generate"})
"""The recipes that train something."""


def prove_shipped(
    path: Path, recipe: str, *, kills: int = 3, **environment: str
) -> tuple[ForgeProcess, dict[str, Any]]:
    """Prove that a shipped recipe resumes exactly; return the process and its certificate."""
    case = RECIPES[recipe]
    place = Workplace(path, environment=environment)
    settings = {**_data(path, case), **_model(path, case), **case.settings}
    if recipe == "neox_1_2b":
        settings |= _shards(path)
    arguments = [part for key, text in settings.items() for part in ("--set", f"{key}={text}")]
    process = place.forge(
        *("prove-resume", recipe, "--profile", case.profile, *arguments),
        *("--kills", str(kills), "-o", "certificate.json"),
    )
    process.finish(expect=0, within=3000)
    return process, json.loads((path / "certificate.json").read_text(encoding="utf-8"))


def _model(path: Path, case: Shipped) -> dict[str, str]:
    if not case.kind:
        return {}
    rows = functions()
    texts = list(instructions()) if case.kind == "gpt2" else ["\n".join(row) for row in rows]
    save_pretrained(path / "pretrained", case.kind, texts)
    found = {f"model.{case.model}.path": "pretrained", f"model.{case.model}.context": "96", **OFTEN}
    if case.kind == "t5":
        found |= {"objective.seq2seq.target_context": "48", "metric.max_new_tokens": "8"}
    return found


def _data(path: Path, case: Shipped) -> dict[str, str]:
    if not case.rows:
        return {}
    with (path / "rows.jsonl").open("w", encoding="utf-8") as file:
        for said, code in functions():
            label = "method" if "(self" in code else "function"
            row = {
                "pairs": {"source": said, "target": code},
                "texts": {"text": said},
                "labels": {"text": code, "label": label},
            }[case.rows]
            file.write(json.dumps(row) + "\n")
    return {f"data.{'instruct' if case.rows == 'pairs' else 'labelled'}.path": "rows.jsonl"}


def _shards(path: Path) -> dict[str, str]:
    """Write token shards as GPT-2's tokenizer would make them."""
    draw = np.random.default_rng(3)
    for split, tokens in (("train", 6000), ("validation", 800)):
        folder = path / "tokens" / split
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(2):
            shard = draw.integers(0, 50257, tokens, dtype=np.uint16)
            np.save(folder / f"shard-{number}.npy", shard)
    return {
        "data.tokens.train": str(path / "tokens" / "train"),
        "data.tokens.validation": str(path / "tokens" / "validation"),
        "model.transformer.width": "64",
    }
