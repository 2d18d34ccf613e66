"""A model in the form of Hugging Face, written into a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from torch import Tensor

from llmforge.interfaces import Tokenizer
from llmforge_plugins.models._architectures import configuration
from llmforge_plugins.models._renamed_weights import renamed
from llmforge_plugins.models._shape import Shape


def save_transformer(
    state: Mapping[str, Tensor],
    shape: Shape,
    directory: Path,
    *,
    tokenizer: Tokenizer,
    max_shard_size: int,
) -> None:
    """Write the weights ``state`` of a transformer as the model of Hugging Face that it equals.

    Raises:
        ExportError: there is none.
    """
    weights = state["embedding.weight"]
    tokens = token_ids(tokenizer)
    config = configuration(
        shape,
        vocab_size=weights.shape[0],
        dtype=str(weights.dtype).removeprefix("torch."),
        tokens=tokens,
    )
    _write_json(directory / "config.json", config)
    # a table: what generation may be told beside the special tokens is the user's to choose
    _write_json(directory / "generation_config.json", {"_from_model_config": True, **tokens})
    huggingface_hub.save_torch_state_dict(
        renamed(state, shape, config["model_type"]), directory, max_shard_size=max_shard_size
    )


def token_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    """Return the ids of a tokenizer's special tokens as configurations name them."""
    special = getattr(tokenizer, "special_tokens", {})
    return {
        "bos_token_id": special.get(getattr(tokenizer, "bos_token", None)),
        "eos_token_id": tokenizer.eos_id,
        # nothing is padded in training; batches are padded with what ends texts, as is customary
        "pad_token_id": tokenizer.eos_id,
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
