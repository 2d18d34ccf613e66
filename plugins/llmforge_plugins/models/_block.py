"""One layer of the transformer: attention and feed-forward part, and how they are added."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmforge_plugins.models._attention import cached_attention, causal_attention, turned
from llmforge_plugins.models._cache import CacheStep
from llmforge_plugins.models._linear import Linear
from llmforge_plugins.models._norm import RmsNorm
from llmforge_plugins.models._packed import PackedWeights
from llmforge_plugins.models._segments import Segments
from llmforge_plugins.models._shape import Shape

Angles = tuple[Tensor, Tensor]  # cosines and sines of the positions at hand

_VALUE_SCALE = 0.5  # of value embeddings at first


class Attention(nn.Module):
    """Causal self-attention with grouped queries (Ainslie et al., "GQA", 2023)."""

    def __init__(self, shape: Shape, *, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = shape.heads, shape.kv_heads, shape.head_size
        self.layer, self.dropout = layer, shape.dropout
        self.qkv = Linear(shape.width, shape.qkv_width, bias=shape.qkv_bias)
        self.out = Linear(shape.mixed_width, shape.width, bias=shape.bias)
        self.normalised = shape.qk_norm
        if shape.qk_norm:
            self.query_norm = RmsNorm(shape.head_size, eps=shape.norm_epsilon)
            self.key_norm = RmsNorm(shape.head_size, eps=shape.norm_epsilon)
        self.head_gate: nn.Parameter | None = None
        if shape.attention_gate:
            self.head_gate = nn.Parameter(torch.empty(shape.heads, shape.gate_channels))
        self.value_scale: nn.Parameter | None = None
        if shape.has_value_embedding(layer):
            self.value_scale = nn.Parameter(torch.full((1,), _VALUE_SCALE))

    def forward(
        self,
        x: Tensor,
        angles: Angles | None,
        step: CacheStep | None,
        segments: Segments | None = None,
        value: Tensor | None = None,
    ) -> Tensor:
        """Mix each position of [rows, positions, width] with those before it in its segment.

        ``value`` [rows, positions, kv_heads · size] is added to the values, scaled as was learned.
        """
        packed = None if step is None else step.cache.weights
        qkv = self.qkv(x, packed).view(*x.shape[:2], self.heads + 2 * self.kv_heads, self.size)
        if self.normalised or value is not None:
            qkv = self._changed(qkv, value)
        if step is not None:
            mixed = self._cached(qkv, angles, step)
        else:
            dropout = self.dropout if self.training else 0.0
            attention = causal_attention if segments is None else segments.attention
            mixed = attention(qkv, self.heads, angles, dropout=dropout)
        if self.head_gate is not None:
            mixed = self._gated(mixed, x, self.head_gate)
        return self.out(mixed, packed)

    def _gated(self, mixed: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Scale each head's output by a gate that ``x`` opens; one of zeros changes nothing."""
        gate = 2 * torch.sigmoid(functional.linear(x[..., : weight.shape[1]], weight))
        heads = mixed.unflatten(-1, (self.heads, -1))
        return (heads * gate[..., None].to(mixed.dtype)).flatten(-2)

    def _changed(self, qkv: Tensor, value: Tensor | None) -> Tensor:
        """Normalise queries and keys, and add to values, where the shape says so."""
        queries, keys, values = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        if self.normalised:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if value is not None and self.value_scale is not None:
            value = value.to(values.dtype).view(values.shape)
            values = values + self.value_scale.to(values.dtype) * value
        return torch.cat((queries, keys, values), dim=2)

    def _cached(self, qkv: Tensor, angles: Angles | None, step: CacheStep) -> Tensor:
        """Attend over what the cache holds; the angles are those of ``wide_tables``."""
        moved, values = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if angles is not None:
            moved = turned(moved, *angles)
        queries, keys = moved.transpose(1, 2).split((self.heads, self.kv_heads), dim=1)
        held = step.extend(self.layer, keys, values.transpose(1, 2))
        mixed = cached_attention(queries, *held, step.mask)
        return mixed.transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """Two linear maps around GELU or ReLU², or three around SwiGLU, its first two made as one."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.activation = shape.activation
        self.up = Linear(shape.width, shape.up_width, bias=shape.bias)
        self.down = Linear(shape.feed_forward, shape.width, bias=shape.bias)

    def forward(self, x: Tensor, packed: PackedWeights | None = None) -> Tensor:
        """Map every position of [rows, positions, width] on its own."""
        return self.down(self._activated(self.up(x, packed)), packed)

    def _activated(self, hidden: Tensor) -> Tensor:
        if self.activation == "swiglu":
            gate, value = hidden.chunk(2, dim=-1)
            return functional.silu(gate) * value
        if self.activation == "relu2":
            return functional.relu(hidden).square()
        approximate = "tanh" if self.activation == "gelu_tanh" else "none"
        return functional.gelu(hidden, approximate=approximate)


class Block(nn.Module):
    """One layer: attention and feed-forward, each normalised before and added after.

    One after the other, or both on the same input (``parallel_residual``), as in GPT-J and
    GPT-NeoX (Black et al., "GPT-NeoX-20B", 2022).
    """

    def __init__(self, shape: Shape, *, layer: int) -> None:
        super().__init__()
        self.parallel = shape.parallel_residual
        self.mix: nn.Parameter | None = None
        if shape.embedding_residual:
            self.mix = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.attention_norm = normalisation(shape)
        self.attention = Attention(shape, layer=layer)
        self.feed_forward_norm = normalisation(shape)
        self.feed_forward = FeedForward(shape)
        self.drop = nn.Dropout(shape.dropout)

    def forward(
        self,
        x: Tensor,
        angles: Angles | None,
        step: CacheStep | None,
        segments: Segments | None = None,
        *,
        embedded: Tensor | None = None,
        value: Tensor | None = None,
    ) -> Tensor:
        """Return the residual stream [rows, positions, width] after this layer.

        ``embedded`` is what the first layer read, ``value`` the embedding that values get added.
        """
        if self.mix is not None and embedded is not None:
            x = self.mix[0] * x + self.mix[1] * embedded
        packed = None if step is None else step.cache.weights
        attended = self.attention(self.attention_norm(x), angles, step, segments, value)
        mixed = x + self.drop(attended)
        mapped = x if self.parallel else mixed
        return mixed + self.drop(self.feed_forward(self.feed_forward_norm(mapped), packed))


def normalisation(shape: Shape) -> nn.Module:
    """Return a normalisation of the residual stream."""
    if shape.norm == "layernorm":
        return nn.LayerNorm(shape.width, eps=shape.norm_epsilon, bias=shape.bias)
    return RmsNorm(shape.width, eps=shape.norm_epsilon)
