"""Small transformers for the tests of the model and its kernels."""

from __future__ import annotations

from typing import Any

import torch

from llmforge_plugins.models._shape import Shape, default_feed_forward
from llmforge_plugins.models._transformer import TransformerModel

VOCABULARY = 61

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "gpt2": {"positions": "learned", "norm": "layernorm", "activation": "gelu", "bias": True},
    "grouped": {"kv_heads": 2},
    "one-kv-head": {"kv_heads": 1, "tie_embeddings": False},
    "qwen3": {"kv_heads": 2, "head_size": 16, "qk_norm": True, "norm_epsilon": 1e-6},
    "qwen2": {"kv_heads": 2, "qkv_bias": True},
    "neox": {
        "rotary_fraction": 0.25,
        "norm": "layernorm",
        "activation": "gelu",
        "bias": True,
        "tie_embeddings": False,
        "parallel_residual": True,
    },
}


def small_shape(**changes: Any) -> Shape:
    """Return a shape of 2 layers × 32 with 4 heads and a context of 12."""
    fields: dict[str, Any] = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 4, "context": 12}
    fields |= changes
    fields.setdefault("head_size", fields["width"] // fields["heads"])
    fields.setdefault("qkv_bias", fields.get("bias", False))
    activation = fields.get("activation", "swiglu")
    fields.setdefault("feed_forward", default_feed_forward(fields["width"], activation))
    return Shape(**fields)


def small_model(seed: int = 1, **changes: Any) -> TransformerModel:
    """Return a model of :func:`small_shape` whose output is far from uniform."""
    torch.manual_seed(seed)
    model = TransformerModel(small_shape(**changes), vocab_size=VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return model


def tokens(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    """Return random token ids of shape [rows, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (rows, length), generator=generator)
