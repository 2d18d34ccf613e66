"""Architectures of Hugging Face that the model ``transformer`` equals, by their configurations.

Both ways and without torch: the shape that a ``config.json`` describes, and the configuration of a
shape. Weights follow in ``_renamed_weights``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmforge import Problem
from llmforge.errors import ExportError
from llmforge_plugins.models._hf_options import too_long
from llmforge_plugins.models._shape import Shape

KNOWN = "Llama, Qwen2, Qwen3, GPT-2 or GPT-NeoX"
"""What a shape may equal, for messages."""

_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
}
_ANY = ("dropout", "context")
"""Fields of a shape that a recipe may choose whatever the weights are."""


class UnknownArchitecture(Exception):
    """A ``config.json`` of a model that the transformer cannot be; the message says why not."""


_WITHOUT_COUNTERPART = (
    "value_embeddings",
    "attention_gate",
    "embedding_residual",
    "skips",
    "bigram_embeddings",
    "token_shift",
    "logit_softcap",
)
_OWN_NAMES = "--format safetensors writes the weights under their own names"


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a ``config.json`` says of a model.

    Attributes:
        kind: its ``model_type``.
        fields: those of :class:`Shape`, without ``context`` and ``dropout``.
        longest: positions it can have.
        vocab_size: rows of its embedding.
    """

    kind: str
    fields: Mapping[str, Any]
    longest: int
    vocab_size: int

    def shape(self, *, context: int, dropout: float) -> Shape:
        """Return the shape of such a model with the context and dropout of a recipe."""
        return Shape(**self.fields, context=context, dropout=dropout)

    def problems(self, given: Mapping[str, Any], *, context: int, key: str) -> list[Problem]:
        """Return what of a recipe cannot be with these weights.

        Args:
            given: fields of a shape that the recipe has.
            context: of the recipe.
            key: of its option table.
        """
        problems = [
            Problem(
                key=f"{key}.{name}",
                message=f"{_shown(value)} contradicts the weights of init_from: {_shown(own)}",
                remedy="take it out",
            )
            for name, value in given.items()
            if value != (own := self.fields.get(name, getattr(Shape, name, None)))
        ]
        if context > self.longest:
            problems.append(too_long(context, self.longest, key=key))
        return problems


def describe(config: Mapping[str, Any]) -> Described:
    """Return what the content of a ``config.json`` describes.

    Values that it lacks are those that ``transformers`` has for such a model.

    Raises:
        UnknownArchitecture: the transformer cannot be this model.
    """
    kind = str(config.get("model_type", ""))
    reader = _READERS.get(kind)
    if reader is None:
        raise UnknownArchitecture(
            f"it is of the type '{kind}', and the model transformer can be {KNOWN} only"
        )
    try:
        return reader(kind, config)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UnknownArchitecture(f"its sizes are incomplete: {error}") from error


def configuration(
    shape: Shape, *, vocab_size: int, dtype: str, tokens: Mapping[str, int | None]
) -> dict[str, Any]:
    """Return the content of the ``config.json`` of the architecture that equals ``shape``.

    Args:
        shape: of the transformer.
        vocab_size: rows of its embedding.
        dtype: of the weights, in torch's words.
        tokens: ``bos_token_id`` and the like.

    Raises:
        ExportError: none does; the message names the option in the way.
    """
    kind = _kind(shape)
    return {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "vocab_size": vocab_size,
        "dtype": dtype,
        "tie_word_embeddings": shape.tie_embeddings,
        "initializer_range": 0.02,
        "use_cache": True,
        **tokens,
        **_WRITERS[kind](shape),
    }


def _kind(shape: Shape) -> str:
    """Return the type of model that equals ``shape``."""
    for option in _WITHOUT_COUNTERPART:
        if value := getattr(shape, option):
            raise ExportError(
                f"model.transformer.{option} = {_shown(value)} has no counterpart in {KNOWN}",
                remedy=_OWN_NAMES,
            )
    if shape.norm == "rmsnorm":
        _require(shape, norm="rmsnorm", positions="rope", activation="swiglu")
        _require(shape, norm="rmsnorm", parallel_residual=False, rotary_fraction=1.0)
        if shape.qk_norm:
            _require(shape, qk_norm=True, bias=False, qkv_bias=False)
            return "qwen3"
        if shape.width % shape.heads:
            raise _refusal(shape, "width", "heads")
        return "qwen2" if shape.qkv_bias and not shape.bias else "llama"
    fixed = {"qk_norm": False, "kv_heads": shape.heads, "head_size": shape.width // shape.heads}
    if shape.activation in ("swiglu", "relu2"):
        raise _refusal(shape, "activation", "norm")
    _require(shape, norm="layernorm", **fixed)
    if shape.positions == "learned":
        _require(shape, positions="learned", parallel_residual=False)
        return "gpt2"
    return "gpt_neox"


def _require(shape: Shape, **wanted: Any) -> None:
    """Refuse a shape that differs from ``wanted``, whose first value is why."""
    reason = next(iter(wanted))
    for name, value in wanted.items():
        if getattr(shape, name) != value:
            raise _refusal(shape, name, reason)


def _refusal(shape: Shape, option: str, reason: str) -> ExportError:
    values = asdict(shape)
    return ExportError(
        f"model.transformer.{option} = {_shown(values[option])} with {reason} = "
        f"{_shown(values[reason])} has no counterpart in {KNOWN}",
        remedy=_OWN_NAMES,
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value}"


# Reading ---------------------------------------------------------------------------------------


def _llama(kind: str, config: Mapping[str, Any]) -> Described:
    theta = _rope(config, theta="rope_theta")["rope_theta"]
    heads, width = config["num_attention_heads"], config["hidden_size"]
    _expect(config, hidden_act="silu", use_sliding_window=False)
    others = set(config.get("layer_types") or ()) - {"full_attention"}
    if others:
        raise UnknownArchitecture(f"it has layers with {min(others)}")
    attention = bool(config.get("attention_bias", False))
    bias = bool(config.get("mlp_bias", False))
    if attention != bias:
        raise UnknownArchitecture(
            f"attention_bias = {_shown(attention)} beside mlp_bias = {_shown(bias)}: "
            "the transformer has biases in both or in neither"
        )
    fallback = 128 if kind == "qwen3" else width // heads
    return _described(
        kind,
        config,
        layers=config["num_hidden_layers"],
        width=width,
        heads=heads,
        head_size=config.get("head_dim") or fallback,
        kv_heads=config.get("num_key_value_heads") or heads,
        feed_forward=config["intermediate_size"],
        norm="rmsnorm",
        activation="swiglu",
        tie_embeddings=config.get("tie_word_embeddings", False),
        bias=bias,
        qkv_bias=bias or kind == "qwen2",
        qk_norm=kind == "qwen3",
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        rope_theta=theta,
    )


def _gpt2(kind: str, config: Mapping[str, Any]) -> Described:
    _expect(config, scale_attn_weights=True, add_cross_attention=False)
    _expect(config, scale_attn_by_inverse_layer_idx=False)
    width, heads = config["n_embd"], config["n_head"]
    return _described(
        kind,
        {"max_position_embeddings": config["n_positions"], **config},
        layers=config["n_layer"],
        width=width,
        heads=heads,
        head_size=width // heads,
        kv_heads=heads,
        feed_forward=config.get("n_inner") or 4 * width,
        positions="learned",
        norm="layernorm",
        activation=_gelu(config.get("activation_function", "gelu_new")),
        tie_embeddings=config.get("tie_word_embeddings", True),
        bias=True,
        qkv_bias=True,
        norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
    )


def _gpt_neox(kind: str, config: Mapping[str, Any]) -> Described:
    rope = _rope(config, theta="rotary_emb_base", fraction="rotary_pct")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    return _described(
        kind,
        config,
        layers=config["num_hidden_layers"],
        width=width,
        heads=heads,
        head_size=width // heads,
        kv_heads=heads,
        feed_forward=config["intermediate_size"],
        norm="layernorm",
        activation=_gelu(config.get("hidden_act", "gelu")),
        tie_embeddings=config.get("tie_word_embeddings", False),
        bias=True,
        qkv_bias=True,
        norm_epsilon=config.get("layer_norm_eps", 1e-5),
        rope_theta=rope["rope_theta"],
        rotary_fraction=rope.get("partial_rotary_factor", 0.25),
        parallel_residual=config.get("use_parallel_residual", True),
    )


def _described(kind: str, config: Mapping[str, Any], **fields: Any) -> Described:
    template = asdict(Shape(**fields, context=1))
    fields = {name: value for name, value in template.items() if name not in _ANY}
    longest, vocabulary = config["max_position_embeddings"], config["vocab_size"]
    return Described(kind=kind, fields=fields, longest=longest, vocab_size=vocabulary)


def _rope(config: Mapping[str, Any], *, theta: str, fraction: str = "") -> dict[str, Any]:
    """Return base and share of rotary positions; files before version 5 had them apart."""
    scaling = config.get("rope_scaling") or {}
    found = {**scaling, **(config.get("rope_parameters") or {})}
    kind = found.get("rope_type", found.get("type", "default"))
    if kind != "default":
        raise UnknownArchitecture(f"its rotary positions are scaled ('{kind}')")
    found.setdefault("rope_theta", config.get(theta, 10_000.0))
    if fraction and fraction in config:
        found.setdefault("partial_rotary_factor", config[fraction])
    if not fraction and found.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnknownArchitecture("its rotary positions turn a part of each head only")
    return {**found, "rope_theta": float(found["rope_theta"])}


def _gelu(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise UnknownArchitecture(f"its activation is {name}")
    return _ACTIVATIONS[name]


def _expect(config: Mapping[str, Any], **wanted: Any) -> None:
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise UnknownArchitecture(f"{key} is {_shown(config[key])}")


_READERS: Mapping[str, Callable[[str, Mapping[str, Any]], Described]] = {
    "llama": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
}


# Writing ---------------------------------------------------------------------------------------


def _llama_config(shape: Shape) -> dict[str, Any]:
    biases = {"attention_bias": shape.bias or shape.qkv_bias, "mlp_bias": shape.bias}
    return {**_qwen_config(shape), **biases}


def _qwen_config(shape: Shape) -> dict[str, Any]:
    return {
        **_sizes(shape),
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "attention_dropout": shape.dropout,
    }


def _gpt_neox_config(shape: Shape) -> dict[str, Any]:
    rope = {"rope_theta": shape.rope_theta, "partial_rotary_factor": shape.rotary_fraction}
    return {
        **_sizes(shape),
        "hidden_act": shape.activation.replace("gelu_tanh", "gelu_pytorch_tanh"),
        "layer_norm_eps": shape.norm_epsilon,
        "rotary_pct": shape.rotary_fraction,
        "rotary_emb_base": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", **rope},
        "use_parallel_residual": shape.parallel_residual,
        "attention_dropout": shape.dropout,
        "hidden_dropout": shape.dropout,
    }


def _gpt2_config(shape: Shape) -> dict[str, Any]:
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout)
    return {
        "n_positions": shape.context,
        "n_embd": shape.width,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_inner": shape.feed_forward,
        "activation_function": shape.activation.replace("gelu_tanh", "gelu_new"),
        "layer_norm_epsilon": shape.norm_epsilon,
        **drops,
    }


def _sizes(shape: Shape) -> dict[str, Any]:
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.context,
    }


_WRITERS: Mapping[str, Callable[[Shape], dict[str, Any]]] = {
    "llama": _llama_config,
    "qwen2": _qwen_config,
    "qwen3": _qwen_config,
    "gpt2": _gpt2_config,
    "gpt_neox": _gpt_neox_config,
}
