"""The model ``transformer``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

import llmforge
from llmforge import Component, hookimpl
from llmforge.interfaces import LanguageModel, RunContext, Tokenizer
from llmforge_plugins.models._shape import PRESETS, Shape, default_feed_forward

Positive = Annotated[int, Field(gt=0)]


class Transformer(Component, kind="model"):
    """A decoder-only transformer with pre-normalisation (Vaswani et al. 2017; GPT-2, 2019).

    By default as in LLaMA (Touvron et al. 2023): rotary positions, RMSNorm, SwiGLU and no biases,
    but with tied embeddings, which suits small vocabularies of small models.
    """

    supports = frozenset({"kv_cache"})

    class Options(llmforge.Options):
        """Options of ``[model.transformer]``."""

        preset: str = "nano"
        """Size by name: nano, tiny, small, medium or large (``forge models list``)."""
        layers: Positive | None = None
        """Blocks; the preset's number when absent."""
        width: Positive | None = None
        """Size of the residual stream; the preset's when absent."""
        heads: Positive | None = None
        """Query heads; the preset's number when absent."""
        kv_heads: Positive | None = None
        """Key and value heads (grouped-query attention); as many as ``heads`` when absent."""
        feed_forward: Positive | None = None
        """Hidden width of the feed-forward part; 4 widths for GELU, about 8/3 for SwiGLU."""
        context: Positive = 128
        """Longest sequence in tokens."""
        positions: Literal["rope", "learned"] = "rope"
        """Rotary embeddings (Su et al. 2021) or a learned table."""
        norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
        """RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016)."""
        activation: Literal["swiglu", "gelu"] = "swiglu"
        """SwiGLU (Shazeer 2020) or GELU (Hendrycks and Gimpel 2016)."""
        tie_embeddings: bool = True
        """Use the embedding matrix for the output too (Press and Wolf 2017)."""
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
        """Share of activations dropped while training."""
        bias: bool = False
        """Biases in linear maps and LayerNorm."""
        rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
        """Base of the rotary frequencies; larger for longer contexts."""

        @field_validator("preset")
        @classmethod
        def _known_preset(cls, value: str) -> str:
            if value not in PRESETS:
                near = difflib.get_close_matches(value, PRESETS, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(PRESETS)}"
                raise ValueError(f"unknown preset '{value}'; {hint}")
            return value

        @model_validator(mode="after")
        def _fits_together(self) -> Transformer.Options:
            if self.preset not in PRESETS:
                return self
            shape = self.shape()
            if shape.width % shape.heads:
                raise ValueError(f"width {shape.width} is not divisible by heads {shape.heads}")
            if shape.heads % shape.kv_heads:
                raise ValueError(
                    f"heads {shape.heads} is not divisible by kv_heads {shape.kv_heads}"
                )
            if shape.positions == "rope" and shape.head_size % 2:
                raise ValueError(
                    f"rotary positions need an even head size, but width {shape.width} / heads "
                    f"{shape.heads} is {shape.head_size}"
                )
            return self

        def shape(self) -> Shape:
            """Return the preset with every option given beside it put in its place."""
            preset = PRESETS[self.preset]
            width = self.width or preset["width"]
            heads = self.heads or preset["heads"]
            return Shape(
                layers=self.layers or preset["layers"],
                width=width,
                heads=heads,
                kv_heads=self.kv_heads or heads,
                feed_forward=self.feed_forward or default_feed_forward(width, self.activation),
                context=self.context,
                positions=self.positions,
                norm=self.norm,
                activation=self.activation,
                tie_embeddings=self.tie_embeddings,
                dropout=self.dropout,
                bias=self.bias,
                rope_theta=self.rope_theta,
            )

    @classmethod
    def presets(cls, vocab_size: int) -> Mapping[str, Mapping[str, int]]:
        """Return layers, width, heads and parameter count of each preset, without torch."""
        return {
            name: {**sizes, "parameters": cls.Options(preset=name).shape().parameters(vocab_size)}
            for name, sizes in PRESETS.items()
        }

    @hookimpl
    def forge_build_model(self, run: RunContext, tokenizer: Tokenizer) -> LanguageModel:
        """Build the model for the tokenizer's vocabulary; torch's generator initialises it."""
        del run
        from llmforge_plugins.models._transformer import TransformerModel

        return TransformerModel(self.options.shape(), vocab_size=tokenizer.vocab_size)
