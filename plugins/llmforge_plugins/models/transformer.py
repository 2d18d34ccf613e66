"""The model ``transformer``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

import llmforge
from llmforge import Component, Problem, hookimpl
from llmforge.interfaces import LanguageModel, RunContext, Tokenizer
from llmforge_plugins._pretrained import (
    PretrainedError,
    find_source,
    known_longest,
    path_problem,
    read_config,
)
from llmforge_plugins.models._architectures import Described, UnknownArchitecture, describe
from llmforge_plugins.models._hf_options import DEFAULT_CONTEXT
from llmforge_plugins.models._shape import PRESETS, Shape, default_feed_forward

Positive = Annotated[int, Field(gt=0)]

_PRESET = "nano"


class Transformer(Component, kind="model"):
    """A decoder-only transformer with pre-normalisation (Vaswani et al. 2017; GPT-2, 2019).

    By default as in LLaMA (Touvron et al. 2023): rotary positions, RMSNorm, SwiGLU and no biases,
    but with tied embeddings, which suits small vocabularies of small models. The options also make
    GPT-2 (learned positions, LayerNorm, GELU, biases) and GPT-NeoX (the presets ``neox-…``).
    """

    supports = frozenset({"kv_cache", "segments", "sequence_log_probs"})

    class Options(llmforge.Options):
        """Options of ``[model.transformer]``."""

        preset: str = _PRESET
        """Size and variant by name: nano, tiny, small, medium, large, neox-1b or neox-1.2b
        (``forge models list``)."""
        init_from: Annotated[str, Field(min_length=1)] | None = None
        """Start from the weights of a Llama, Qwen2, Qwen3, GPT-2 or GPT-NeoX: a name on the hub,
        one of ``forge models list``, or a folder. Sizes and variants are those of the weights;
        options that contradict them are refused, ``context`` and ``dropout`` are free."""
        revision: Annotated[str, Field(min_length=1)] = "main"
        """Branch, tag or commit of ``init_from`` on the hub. The run records the commit and keeps
        to it."""
        layers: Positive | None = None
        """Blocks; the preset's number when absent."""
        width: Positive | None = None
        """Size of the residual stream; the preset's when absent."""
        heads: Positive | None = None
        """Query heads; the preset's number when absent."""
        kv_heads: Positive | None = None
        """Key and value heads (grouped-query attention); as many as ``heads`` when absent."""
        head_size: Positive | None = None
        """Width of one head; ``width / heads`` when absent."""
        feed_forward: Positive | None = None
        """Hidden width of the feed-forward part; 4 widths for GELU, about 8/3 for SwiGLU."""
        context: Positive = 128
        """Longest sequence in tokens; with ``init_from``, when absent, 1,024 or the model's own
        maximum if that is known to be less."""
        positions: Literal["rope", "learned"] | None = None
        """Rotary embeddings (Su et al. 2021) or a learned table; ``rope`` when absent."""
        norm: Literal["rmsnorm", "layernorm"] | None = None
        """RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016); ``rmsnorm`` when absent,
        with the neox presets ``layernorm``."""
        activation: Literal["swiglu", "gelu", "gelu_tanh", "relu2"] | None = None
        """SwiGLU (Shazeer 2020), GELU (Hendrycks and Gimpel 2016), GELU's approximation with tanh
        as in GPT-2, or the square of ReLU (So et al., "Primer", 2021); ``swiglu`` when absent, with
        the neox presets ``gelu``."""
        tie_embeddings: bool | None = None
        """Use the embedding matrix for the output too (Press and Wolf 2017); true when absent, with
        the neox presets false."""
        parallel_residual: bool | None = None
        """Attention and feed-forward part read the same input and are added together (GPT-J,
        GPT-NeoX); false when absent, with the neox presets true."""
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
        """Share of activations dropped while training."""
        bias: bool | None = None
        """Biases in linear maps and LayerNorm; false when absent, with the neox presets true."""
        qkv_bias: bool | None = None
        """Biases in the map to queries, keys and values; as ``bias`` when absent. Qwen2 has them
        there only."""
        qk_norm: bool | None = None
        """Normalise queries and keys head by head (Henry et al. 2020; Qwen3); false when absent."""
        norm_epsilon: Annotated[float, Field(gt=0)] | None = None
        """What normalisations add to the mean square; 1e-5 when absent."""
        rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
        """Base of the rotary frequencies; larger for longer contexts. With ``init_from`` the
        model's own, for which 10,000 stands too."""
        rotary_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
        """Share of each head that rotary embeddings turn; 1 when absent, with the neox presets
        0.25."""
        zero_init: bool = False
        """Begin with zeros in the maps that write to the residual stream, so that every layer
        first passes on what it reads (Zhang et al., "Fixup", 2019)."""
        value_embeddings: Annotated[int, Field(ge=0)] = 0
        """Layers that add an embedding of the token to their values, the outermost ones (modded
        nanoGPT, 2024, after Zhou et al., "Value Residual Learning", 2024)."""
        attention_gate: bool = False
        """Scale the output of each attention head by what a few channels of its input say (Qiu et
        al., "Gated Attention", 2025; in this sparse form modded nanoGPT, 2025)."""
        embedding_residual: bool = False
        """Let every layer read a learned mix of the residual stream and the embedding (modded
        nanoGPT, 2024)."""
        skips: bool = False
        """Let layers of the second half read, beside the stream, what their mirror images in the
        first half made, as in a U-Net (Ronneberger et al. 2015)."""
        bigram_embeddings: Annotated[int, Field(ge=0)] = 0
        """Rows of a table that embeds each token together with the one before it, by their hash
        (as the n-grams of Pagnoni et al., "Byte Latent Transformer", 2024); 0 for none."""
        token_shift: bool = False
        """Add to each token's embedding a learned share of that of the token before (Peng et al.,
        "RWKV", 2023)."""
        logit_softcap: Annotated[float, Field(ge=0)] = 0.0
        """Hold the size of logits below this bound, smoothly (Gemma 2, 2024); 0 for none."""
        multi_token: Annotated[float, Field(ge=0)] = 0.0
        """Weight of a loss for the token after the next, which has a part in gradients only
        (Gloeckle et al. 2024); 0 for none."""

        @model_validator(mode="before")
        @classmethod
        def _context_of_the_weights(cls, values: Any) -> Any:
            if not isinstance(values, Mapping) or "context" in values:
                return values
            path = values.get("init_from")
            if not isinstance(path, str) or not path:
                return values
            return {
                **values,
                "context": min(known_longest(path) or DEFAULT_CONTEXT, DEFAULT_CONTEXT),
            }

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
            if self.init_from is not None:
                if self.preset != _PRESET:
                    raise ValueError("preset and init_from both say which model it is: take one")
                return self
            if self.preset not in PRESETS:
                return self
            shape = self.shape()
            if self.head_size is None and shape.width % shape.heads:
                raise ValueError(f"width {shape.width} is not divisible by heads {shape.heads}")
            if shape.heads % shape.kv_heads:
                raise ValueError(
                    f"heads {shape.heads} is not divisible by kv_heads {shape.kv_heads}"
                )
            if shape.value_embeddings > shape.layers:
                raise ValueError(
                    f"value_embeddings {shape.value_embeddings} are more than the {shape.layers} "
                    "layers"
                )
            turned = shape.rotary_size
            if shape.positions == "rope" and (turned % 2 or not turned):
                share = "" if turned == shape.head_size else f", of which {turned} are turned"
                raise ValueError(
                    f"rotary positions need an even head size, but width {shape.width} / heads "
                    f"{shape.heads} is {shape.head_size}{share}"
                )
            return self

        def given(self) -> dict[str, Any]:
            """Return the options that say something about weights, without defaults."""
            others = {"preset", "init_from", "revision", "context", "dropout"}
            return self.model_dump(exclude=others, exclude_none=True, exclude_defaults=True)

        def shape(self, weights: Described | None = None) -> Shape:
            """Return the preset with every option given beside it put in its place.

            Args:
                weights: what ``init_from`` is, for options that have it.
            """
            if weights is not None:
                return weights.shape(context=self.context, dropout=self.dropout)
            given = self.model_dump(exclude={"preset", "init_from", "revision"}, exclude_none=True)
            fields: dict[str, Any] = {**PRESETS[self.preset], **given}
            activation = fields.get("activation", Shape.activation)
            fields.setdefault("kv_heads", fields["heads"])
            fields.setdefault("head_size", fields["width"] // fields["heads"])
            fields.setdefault("qkv_bias", fields.get("bias", Shape.bias))
            fields.setdefault("feed_forward", default_feed_forward(fields["width"], activation))
            return Shape(**fields)

    @classmethod
    def presets(cls, vocab_size: int) -> Mapping[str, Mapping[str, Any]]:
        """Return layers, width, heads and parameter counts of each preset, without torch.

        Everywhere but here ``nano`` is called ``custom-nano``, and so on.
        """
        shapes = {name: cls.Options(preset=name).shape() for name in PRESETS}
        return {
            name: {
                "name": name if name.startswith("neox") else f"custom-{name}",
                "own_tokenizer": "bpe",
                "source": "random weights",
                "licence": "yours",
                "tokenizer": "the recipe's",
                "layers": shape.layers,
                "width": shape.width,
                "heads": shape.heads,
                "parameters": shape.parameters(vocab_size),
                "parameters_in_blocks": shape.block_parameters(),
            }
            for name, shape in shapes.items()
        }

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look whether the weights to start from are there, and are what the options say."""
        if self.options.init_from is None or run.resolved.get("model"):
            return []  # a run that has started is resumed from what it has recorded
        return problems_of_weights(self.options, run, key=f"model.{self.name}")

    @hookimpl
    def forge_build_model(self, run: RunContext, tokenizer: Tokenizer) -> LanguageModel:
        """Build the model for the tokenizer's vocabulary; torch's generator initialises it."""
        if self.options.init_from is not None:
            from llmforge_plugins.models._init_from import build

            return build(self.options, run, vocab_size=tokenizer.vocab_size, name=self.name)
        from llmforge_plugins.models._transformer import TransformerModel

        return TransformerModel(self.options.shape(), vocab_size=tokenizer.vocab_size)


def problems_of_weights(options: Any, run: RunContext, *, key: str) -> list[Problem]:
    """Return what is wrong with ``init_from``, looking no further than its ``config.json``."""
    if wrong := path_problem(options.init_from):
        return [Problem(key=f"{key}.init_from", message=wrong[0], remedy=wrong[1])]
    try:
        source = find_source(options.init_from, revision=options.revision, run=run)
        found = describe(read_config(source))
    except PretrainedError as error:
        return [Problem(key=f"{key}.init_from", message=error.message, remedy=error.remedy)]
    except UnknownArchitecture as error:
        message = f"the transformer cannot start from '{options.init_from}': {error}"
        remedy = "use the model hf-causal, or hf-encoder or hf-seq2seq if it is such a one"
        return [Problem(key=f"{key}.init_from", message=message, remedy=remedy)]
    return found.problems(options.given(), context=options.context, key=key)
