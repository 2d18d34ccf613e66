"""Weights of the transformer under the names, and in the order, of Hugging Face's models.

They are moved, cut and transposed and never computed with: there and back gives equal bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llmforge_plugins.models._shape import Shape


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One tensor of the transformer and where its content is in a model of Hugging Face.

    Attributes:
        own: its name.
        theirs: names of the tensors that, one under the other, have its content.
        rows: of each of them.
        transposed: whether a matrix is the other way round there (GPT-2's ``Conv1D``).
        by_head: heads within which queries, keys and values are side by side there (GPT-NeoX);
            None when all queries come first, as here.
    """

    own: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    transposed: bool = False
    by_head: int | None = None

    @property
    def is_bias(self) -> bool:
        """Whether it is a bias, which is zero where one of the two has none."""
        return self.own.endswith("bias")

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Return Hugging Face's tensors of the transformer's."""
        if self.by_head is not None:
            parts = tensor.unflatten(0, (3, self.by_head, -1)).transpose(0, 1)
            tensor = parts.reshape(tensor.shape)
        pieces = tensor.split(self.rows)
        if self.transposed and tensor.dim() > 1:
            pieces = tuple(piece.t() for piece in pieces)
        if len(pieces) > 1:  # a file has no tensors that are parts of one another
            pieces = tuple(piece.clone() for piece in pieces)
        return {name: part.contiguous() for name, part in zip(self.theirs, pieces, strict=True)}

    def join(self, parts: list[Tensor]) -> Tensor:
        """Return the transformer's tensor of Hugging Face's."""
        if self.transposed and parts[0].dim() > 1:
            parts = [part.t() for part in parts]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.by_head is not None:
            heads = whole.unflatten(0, (self.by_head, 3, -1)).transpose(0, 1)
            whole = heads.reshape(whole.shape)
        return whole


def renamed(state: Mapping[str, Tensor], shape: Shape, kind: str) -> dict[str, Tensor]:
    """Return the weights ``state`` of a transformer as those of a model of the type ``kind``."""
    found: dict[str, Tensor] = {}
    for rule in rules(shape, kind, vocab_size=state["embedding.weight"].shape[0]):
        if rule.own in state:
            found |= rule.split(state[rule.own].detach())
        elif rule.is_bias:
            zeros = state["embedding.weight"].new_zeros(sum(rule.rows))
            found |= rule.split(zeros)
    return found


def rules(shape: Shape, kind: str, *, vocab_size: int) -> Iterator[Rule]:
    """Yield a rule for every tensor of the models of the type ``kind`` with this ``shape``."""
    yield from _RULES[kind](shape, vocab_size)


def _llama(shape: Shape, vocab_size: int) -> Iterator[Rule]:
    yield _plain("embedding.weight", "model.embed_tokens.weight", vocab_size)
    queries, others = shape.mixed_width, shape.kv_heads * shape.head_size
    for layer in range(shape.layers):
        own, their = f"blocks.{layer}", f"model.layers.{layer}"
        yield _plain(f"{own}.attention_norm.weight", f"{their}.input_layernorm.weight", shape.width)
        yield _plain(
            f"{own}.feed_forward_norm.weight",
            f"{their}.post_attention_layernorm.weight",
            shape.width,
        )
        if shape.qk_norm:
            for name, part in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
                yield _plain(
                    f"{own}.attention.{name}.weight",
                    f"{their}.self_attn.{part}.weight",
                    shape.head_size,
                )
        for kind in ("weight", "bias"):
            if kind == "weight" or shape.qkv_bias or shape.bias:
                yield Rule(
                    own=f"{own}.attention.qkv.{kind}",
                    theirs=tuple(f"{their}.self_attn.{part}_proj.{kind}" for part in "qkv"),
                    rows=(queries, others, others),
                )
            if kind == "weight" or shape.bias:
                yield _plain(
                    f"{own}.attention.out.{kind}", f"{their}.self_attn.o_proj.{kind}", shape.width
                )
                yield Rule(
                    own=f"{own}.feed_forward.up.{kind}",
                    theirs=(f"{their}.mlp.gate_proj.{kind}", f"{their}.mlp.up_proj.{kind}"),
                    rows=(shape.feed_forward, shape.feed_forward),
                )
                yield _plain(
                    f"{own}.feed_forward.down.{kind}", f"{their}.mlp.down_proj.{kind}", shape.width
                )
    yield _plain("norm.weight", "model.norm.weight", shape.width)
    if not shape.tie_embeddings:
        yield _plain("head.weight", "lm_head.weight", vocab_size)


def _gpt2(shape: Shape, vocab_size: int) -> Iterator[Rule]:
    yield _plain("embedding.weight", "transformer.wte.weight", vocab_size)
    yield _plain("positions.weight", "transformer.wpe.weight", shape.context)
    parts = {
        "attention_norm": ("ln_1", shape.width),
        "attention.qkv": ("attn.c_attn", shape.qkv_width),
        "attention.out": ("attn.c_proj", shape.width),
        "feed_forward_norm": ("ln_2", shape.width),
        "feed_forward.up": ("mlp.c_fc", shape.feed_forward),
        "feed_forward.down": ("mlp.c_proj", shape.width),
    }
    for layer in range(shape.layers):
        for own, (their, rows) in parts.items():
            for kind in ("weight", "bias"):
                yield Rule(
                    own=f"blocks.{layer}.{own}.{kind}",
                    theirs=(f"transformer.h.{layer}.{their}.{kind}",),
                    rows=(rows,),
                    transposed=True,
                )
    for kind in ("weight", "bias"):
        yield _plain(f"norm.{kind}", f"transformer.ln_f.{kind}", shape.width)
    if not shape.tie_embeddings:
        yield _plain("head.weight", "lm_head.weight", vocab_size)


def _gpt_neox(shape: Shape, vocab_size: int) -> Iterator[Rule]:
    yield _plain("embedding.weight", "gpt_neox.embed_in.weight", vocab_size)
    parts = {
        "attention_norm": ("input_layernorm", shape.width),
        "attention.qkv": ("attention.query_key_value", shape.qkv_width),
        "attention.out": ("attention.dense", shape.width),
        "feed_forward_norm": ("post_attention_layernorm", shape.width),
        "feed_forward.up": ("mlp.dense_h_to_4h", shape.feed_forward),
        "feed_forward.down": ("mlp.dense_4h_to_h", shape.width),
    }
    for layer in range(shape.layers):
        for own, (their, rows) in parts.items():
            for kind in ("weight", "bias"):
                yield Rule(
                    own=f"blocks.{layer}.{own}.{kind}",
                    theirs=(f"gpt_neox.layers.{layer}.{their}.{kind}",),
                    rows=(rows,),
                    by_head=shape.heads if own == "attention.qkv" else None,
                )
    for kind in ("weight", "bias"):
        yield _plain(f"norm.{kind}", f"gpt_neox.final_layer_norm.{kind}", shape.width)
    if not shape.tie_embeddings:
        yield _plain("head.weight", "embed_out.weight", vocab_size)


def _plain(own: str, their: str, rows: int) -> Rule:
    return Rule(own=own, theirs=(their,), rows=(rows,))


_RULES: Mapping[str, Callable[[Shape, int], Iterator[Rule]]] = {
    "llama": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
}
