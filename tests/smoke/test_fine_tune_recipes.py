"""Every fine-tuning recipe as it is, but for a small model and rows of this machine.

The models are of the recipe's architecture with random weights, saved as pre-trained folders. Rows
are the bundled instructions, and functions of Python's own library with what they say of
themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forge_process import Workplace
from library_rows import functions, instructions
from pretrained_folders import save_pretrained
from test_kill import kill_until_done


@dataclass(frozen=True)
class Case:
    """A recipe and what makes it small.

    Attributes:
        kind: architecture of the model; empty where the recipe starts from scratch.
        model: component that runs it.
        more: further lines of the recipe.
    """

    kind: str
    model: str
    more: str = ""


_ROWS = '[data.{data}]\npath = "rows.jsonl"\n'
_LABELLED = _ROWS.format(data="labelled")
_PAIRS = _ROWS.format(data="instruct")
_ANSWERED = "[metric]\nnames = ['chrf']\nrows = 8\nmax_new_tokens = 16\n"
CASES = {
    "alpaca_custom_tiny": Case(
        "", "transformer", "[tokenizer.bpe]\nvocab_size = 600\n" + _ANSWERED
    ),
    "alpaca_gpt2": Case("gpt2", "hf-causal", _ANSWERED),
    "dialogpt_alpaca": Case("gpt2", "hf-causal", _ANSWERED),
    "codet5_lora": Case("t5", "hf-seq2seq", _PAIRS + "[metric]\nrows = 8\nmax_new_tokens = 16\n"),
    "t5_small": Case("t5", "hf-seq2seq", _PAIRS + "[metric]\nrows = 8\nmax_new_tokens = 16\n"),
    "codebert_mlm": Case("roberta", "hf-encoder", _LABELLED),
    "codebert_classify": Case("roberta", "hf-encoder", _LABELLED),
}
QUICK = ("codet5_lora", "codebert_classify")
"""Those that are trained in the usual tests; the others are slow ones."""


def workplace(path: Path, recipe: str, *, steps: int = 40, **settings: str) -> Workplace:
    case = CASES[recipe]
    rows = list(functions())
    texts = list(instructions()) if case.kind == "gpt2" else ["\n".join(row) for row in rows]
    preset = 'preset = "nano"\nlayers = 2\nwidth = 64\nheads = 4\n'
    own = preset if not case.kind else 'path = "pretrained"\n'
    text = (
        f'extends = "{recipe}"\n[run]\nid = "tiny"\n'
        f"[model.{case.model}]\n{own}context = 96\n"
        f"[train]\nmax_steps = {steps}\nbatch_size = 8\nmicro_batch_size = 4\n"
        'precision = "fp32"\nlog_every = 5\n[optimizer.adamw]\nlr = 3e-3\n'
        f"[eval]\nevery = {steps // 5}\n[early_stopping]\npatience = 50\n"
        "[checkpoint]\nevery = 3\nkeep_last = 2\n"
        f"[tracker]\nnames = []\n{case.more}"
    )
    found = Workplace(path, {k.replace("__", "."): v for k, v in settings.items()}, recipe=text)
    if case.kind:
        save_pretrained(path / "pretrained", case.kind, texts)
    labelled = case.model == "hf-encoder"
    with (path / "rows.jsonl").open("w", encoding="utf-8") as file:
        for said, code in rows:
            label = "method" if "(self" in code else "function"
            row = {"source": said, "target": code}
            if labelled:
                row = {"text": said} if "mlm" in recipe else {"text": code, "label": label}
            file.write(json.dumps(row) + "\n")
    return found


@pytest.mark.parametrize(
    "recipe",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_a_recipe_trains_as_it_is(tmp_path: Path, recipe: str) -> None:
    # at first it only learns which label is the more frequent one
    longer: dict[str, Any] = {}
    if "classify" in recipe:
        longer = {"steps": 100, "optimizer__adamw__lr": "1e-3"}
    if CASES[recipe].kind == "gpt2":  # at first it ends every answer at once
        longer = {"steps": 240, "optimizer__adamw__lr": "6e-3"}
    found = workplace(tmp_path, recipe, **longer)
    output = found.train_here()
    measured = [row for row in found.rows if "val/loss" in row]
    assert measured[-1]["val/loss"] < measured[0]["val/loss"] - 0.02
    assert found.record["state"] in ("completed", "early-stopped")
    assert "Traceback" not in output
    metrics = {"codebert_mlm": (), "codebert_classify": ("accuracy", "f1")}
    for name in metrics.get(recipe, ("chrf",)):
        assert f"val/{name}" in measured[-1]
    if CASES[recipe].kind == "t5":
        assert measured[-1]["val/chrf"] > 2  # 0.0 after one step
    if CASES[recipe].kind == "gpt2":
        chrf = [row["val/chrf"] for row in measured]
        assert chrf[0] < 0.5 < 1 < max(chrf)
    if recipe == "codet5_lora":
        weights = found.checkpoints[-1] / "model.safetensors"
        whole = found.path / "pretrained" / "model.safetensors"
        assert weights.stat().st_size < whole.stat().st_size / 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("recipe", ["alpaca_custom_tiny", "alpaca_gpt2", "codet5_lora"])
def test_twelve_kills_at_random_instants_leave_no_trace(tmp_path: Path, recipe: str) -> None:
    """Weights or adapter and the optimizer's state are equal, bit for bit."""
    whole = workplace(tmp_path / "whole", recipe, steps=30)
    whole.train()
    killed, number = 0, 0
    while killed < 12:
        found = workplace(tmp_path / f"killed-{number}", recipe, steps=30)
        killed += kill_until_done(found, kills=12 - killed, seed=number)
        assert found.result() == whole.result()
        number += 1
