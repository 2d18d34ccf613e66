"""Short real runs to export, and reading what was exported in a fresh process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w
import torch

import llmforge
from llmforge.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    Retention,
    SaveRequest,
    SelfDescription,
    open_checkpoint,
)
from llmforge.generation import load_checkpoint, locate
from llmforge.generation.load import LoadedModel
from llmforge.plugins import load
from llmforge.recipe import load_recipe, to_toml
from llmforge_plugins.tokenizers.bytes import ByteTokenizer

TEXT = "The river and the stone of the garden, and the river again. " * 4
WORDS = ("river", "stone", "cloud", "garden", "tree", "bird")

OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-grouped-untied": {"kv_heads": 2, "tie_embeddings": False},
    "llama-biases": {"bias": True, "kv_heads": 1, "head_size": 16},
    "qwen2": {"qkv_bias": True, "kv_heads": 2, "rope_theta": 1e6, "norm_epsilon": 1e-6},
    "qwen3": {"qk_norm": True, "head_size": 16, "kv_heads": 2, "tie_embeddings": False},
    "gpt2": {"positions": "learned", "norm": "layernorm", "activation": "gelu_tanh", "bias": True},
    "gpt2-exact-untied": {
        "positions": "learned",
        "norm": "layernorm",
        "activation": "gelu",
        "tie_embeddings": False,
    },
    "gpt-neox": {"preset": "neox-1b", "rotary_fraction": 0.5},
    "gpt-neox-one-after-the-other": {
        "norm": "layernorm",
        "activation": "gelu",
        "tie_embeddings": True,
    },
}
"""Options of the model ``transformer``, one set for everything that Hugging Face's models have."""


def train(place: Path, tables: dict[str, Any]) -> Checkpoint:
    """Train a run ``tiny`` of a few steps in ``place``; return its last checkpoint."""
    place.mkdir(parents=True, exist_ok=True)
    defaults: dict[str, Any] = {
        "run": {"root": str(place / "runs"), "id": "tiny"},
        "train": {"max_steps": 6, "batch_size": 4, "log_every": 2, "device": "cpu"},
        "eval": {"every": 3},
        "optimizer": {"name": "adamw", "adamw": {"lr": 5e-3}},
    }
    path = place / "recipe.toml"
    path.write_text(tomli_w.dumps(defaults | tables), encoding="utf-8")
    llmforge.train(path)
    return locate("tiny@last", root=place / "runs")


def text_data(place: Path) -> dict[str, Any]:
    """Return the tables of a little text over bytes."""
    place.mkdir(parents=True, exist_ok=True)
    for name in ("train.txt", "validation.txt"):
        (place / name).write_text(TEXT * 8, encoding="utf-8")
    return {"data": {"name": "text", "text": {"path": str(place)}}, "tokenizer": {"name": "bytes"}}


def rows(place: Path, *, pairs: bool) -> Path:
    """Write examples with sources and targets, or with texts and labels; return the file."""
    place.mkdir(parents=True, exist_ok=True)
    draw = random.Random(3)
    lines = []
    for _ in range(80):
        said = draw.choices(WORDS, k=draw.randint(1, 6))
        text = " ".join(said)
        labelled = {"text": text, "label": "long" if len(said) > 3 else "short"}
        lines.append({"source": text, "target": " ".join(said[::-1])} if pairs else labelled)
    path = place / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def own_tables(place: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of a small transformer with ``options`` over a little text."""
    sizes = {"layers": 2, "width": 32, "heads": 4, "context": 48}
    return {
        "model": {"name": "transformer", "transformer": {**sizes, **options}},
        **text_data(place / "text"),
    }


_READ = """
import json, sys, torch, transformers
transformers.logging.set_verbosity_error()

def read(folder, auto, kind, base, ids, texts, out, written=None, of_base={}):
    if base:
        import peft
        model = getattr(transformers, auto).from_pretrained(base, **of_base)
        model = peft.PeftModel.from_pretrained(model, folder)
    else:
        model, found = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
        assert not any(found.values()), found
    model.eval()
    ids = torch.tensor(ids)
    told = {"class": type(model).__name__, "labels": getattr(model.config, "id2label", None)}
    more = {} if written is None else {"decoder_input_ids": torch.tensor(written)}
    with torch.inference_mode():
        torch.save(model(input_ids=ids, **more).logits.float(), out)
        if kind in ("text", "source"):
            told["greedy"] = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12,
                do_sample=False, eos_token_id=None,
            )[0].tolist()
    if texts:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        told["encoded"] = encoded
        told["whole"] = [tokenizer(text).input_ids for text in texts]
        told["decoded"] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded]
    return told

print(json.dumps([read(**job) for job in json.loads(sys.argv[1])]))
"""


def job(
    folder: Path,
    auto: str,
    ids: list[list[int]],
    *,
    kind: str = "text",
    base: Path | None = None,
    texts: list[str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return what :func:`read_elsewhere` shall read.

    Args:
        folder: that was exported.
        auto: the auto class that loads it.
        ids: to compute logits for.
        kind: ``text`` for a causal model, ``source`` for an encoder-decoder, else neither.
        base: the model of an adapter, which peft puts on it.
        texts: to encode.
        more: ``written`` of a decoder, and settings ``of_base``.
    """
    out = str(folder.with_name(f"{folder.name}.logits.pt"))
    given = {"ids": ids, "texts": texts, "out": out, "base": str(base or "")}
    return {"folder": str(folder), "auto": auto, "kind": kind, **given, **more}


def read_elsewhere(*jobs: dict[str, Any]) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """Load folders with transformers in one fresh process; return what it tells, and logits."""
    done = subprocess.run(
        [sys.executable, "-c", _READ, json.dumps(jobs)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    return [(each, torch.load(one["out"])) for each, one in zip(told, jobs, strict=True)]


def untrained(place: Path, options: dict[str, Any]) -> Checkpoint:
    """Return a checkpoint of an own model over bytes that was never trained, far from uniform."""
    place.mkdir(parents=True)
    path = place / "recipe.toml"
    tables = {
        **own_tables(place, options),
        "train": {"max_steps": 1},
    }
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    recipe = load_recipe(path)
    plugin = load("model", "transformer")(recipe.selected("model").options)
    torch.manual_seed(4)
    model: Any = plugin.forge_build_model(run=None, tokenizer=ByteTokenizer())  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ByteTokenizer().save(place / "text")
    description = SelfDescription(
        recipe=to_toml(recipe.tables), recipe_hash="0" * 64, tokenizer=place / "text"
    )
    with CheckpointWriter(
        place / "checkpoints",
        description=description,
        retention=Retention(keep_last=1, keep_best=1),
        on_saved=lambda _: None,
    ) as writer:
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        state: dict[str, Any] = {"optimizer": {}, "trainer": {}, "metadata": {}}
        writer.submit(SaveRequest(step=1, model=weights, is_best=True, required=True, **state))
    return open_checkpoint(place / "checkpoints" / "step-00000001")


def loaded(checkpoint: Checkpoint) -> LoadedModel:
    """Return the checkpoint's model as this project loads it."""
    return load_checkpoint(checkpoint, device="cpu", dtype="fp32")


def greedy(model: Any, ids: list[int], new: int) -> list[int]:
    """Return ``ids`` with the likeliest ``new`` tokens after them, without a cache."""
    for _ in range(new):
        with torch.inference_mode():
            ids = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())]
    return ids
