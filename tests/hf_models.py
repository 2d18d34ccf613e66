"""Tiny Hugging Face models with random weights, saved as pre-trained folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from llmforge import Component
from llmforge.interfaces import RunContext
from llmforge.plugins import load
from llmforge.testing import make_component, run_context

VOCABULARY = 257
CONTEXT = 32

_NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    **_NO_TOKENS,
}
_MANY_HEADS = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}


def config(kind: str, **changes: Any) -> Any:
    """Return the configuration of a model of 2 layers x 32 of the type ``kind``, no dropout."""
    fields = dict(_LLAMA)
    if kind == "gpt2":
        fields = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 2}
        fields |= {"n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        fields |= _NO_TOKENS
    elif kind in ("gpt_neox", "roberta", "phi"):
        fields = dict(_MANY_HEADS)
    elif kind == "t5":
        fields = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1}
        fields |= {"num_heads": 2, "decoder_start_token_id": 0, "pad_token_id": 0}
    elif kind.startswith("gemma"):
        fields |= {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": CONTEXT}
    return transformers.CONFIG_MAPPING[kind](**{**fields, **changes})


def far_from_uniform(model: Any) -> Any:
    """Make the output of a freshly drawn model depend on what it reads."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return model


def save(
    folder: Path, kind: str, *, auto: str = "AutoModelForCausalLM", seed: int = 5, **changes: Any
) -> Path:
    """Save a model of the type ``kind`` with random weights in ``folder``; return that."""
    torch.manual_seed(seed)
    model = getattr(transformers, auto).from_config(config(kind, **changes))
    far_from_uniform(model).save_pretrained(folder)
    return folder


def reference(folder: Path) -> Any:
    """Return the model as ``transformers`` itself loads it, ready for training."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder).train()


def component(folder: Path | str, **options: Any) -> Component:
    """Return ``hf-causal`` for a folder."""
    return make_component(
        load("model", "hf-causal"), {"path": str(folder), **options}, name="hf-causal"
    )


def model_run(directory: Path, folder: Path | str, **changes: Any) -> RunContext:
    """Return a run whose recipe selects ``hf-causal`` with ``folder`` and ``from-model``."""
    tables = {
        "model": {"name": "hf-causal", "hf-causal": {"path": str(folder), "revision": "main"}},
        "tokenizer": {"name": "from-model"},
    }
    return run_context(directory, **{"context": CONTEXT, "config": tables, **changes})


class Vocabulary:
    """A tokenizer of which a model only learns how many ids it has."""

    def __init__(self, vocab_size: int = VOCABULARY) -> None:
        self.vocab_size = vocab_size


def built(directory: Path, folder: Path | str, *, vocab_size: int = VOCABULARY, **rest: Any) -> Any:
    """Return the model of ``hf-causal`` for a folder; ``rest`` are options or fields of the run."""
    fields = ("notice", "resolved", "filled", "offline")
    changes = {key: rest.pop(key) for key in fields if key in rest}
    plugin = component(folder, **rest)
    return plugin.forge_build_model(  # type: ignore[attr-defined]
        model_run(directory, folder, **changes), Vocabulary(vocab_size)
    )


TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save_tokenizer(folder: Path, *, vocab_size: int = 300) -> Path:
    """Save a byte-level BPE tokenizer with a chat template in ``folder``, by transformers."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["the river and the stone of the garden"] * 20, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes one out."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
