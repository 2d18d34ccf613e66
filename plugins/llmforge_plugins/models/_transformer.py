"""The transformer itself: embedding, blocks of attention and feed-forward, output, loss.

What makes it fast is beside it: ``_linear`` (matrix products), ``_attention``, ``_segments``
(examples that share rows), ``_norm`` and ``_cross_entropy``; ``_cache`` holds keys and values for
generation.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmforge.interfaces import IGNORE_INDEX, Batch, LinearLayer, Tokenizer, linear_layers
from llmforge_plugins.models._attention import causal_attention, rotary_tables, rotate
from llmforge_plugins.models._cache import CacheStep, KeyValueCache
from llmforge_plugins.models._cross_entropy import (
    layer_log_probs,
    linear_cross_entropy,
    linear_log_probs,
)
from llmforge_plugins.models._linear import Linear, has_matrix, linear
from llmforge_plugins.models._norm import RmsNorm
from llmforge_plugins.models._packed import PackedWeights
from llmforge_plugins.models._segments import Segments, can_be_looked_at, find_segments, rounded_up
from llmforge_plugins.models._shape import Shape

Angles = tuple[Tensor, Tensor]  # cosines and sines of the positions at hand

_INIT_STD = 0.02


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

    def forward(
        self,
        x: Tensor,
        angles: Angles | None,
        step: CacheStep | None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Mix each position of [rows, positions, width] with those before it in its segment."""
        packed = None if step is None else step.cache.weights
        qkv = self.qkv(x, packed).view(*x.shape[:2], self.heads + 2 * self.kv_heads, self.size)
        if self.normalised:
            qkv = self._normalise(qkv)
        if step is not None:
            return self.out(self._cached(qkv, angles, step), packed)
        dropout = self.dropout if self.training else 0.0
        attention = causal_attention if segments is None else segments.attention
        return self.out(attention(qkv, self.heads, angles, dropout=dropout))

    def _normalise(self, qkv: Tensor) -> Tensor:
        """Normalise queries and keys (Henry et al., "Query-Key Normalization", 2020; Qwen3)."""
        queries, keys, values = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        return torch.cat((self.query_norm(queries), self.key_norm(keys), values), dim=2)

    def _cached(self, qkv: Tensor, angles: Angles | None, step: CacheStep) -> Tensor:
        queries, keys, values = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        if angles is not None:
            queries, keys = rotate(queries, *angles), rotate(keys, *angles)
        held = step.extend(self.layer, keys.transpose(1, 2), values.transpose(1, 2))
        mixed = functional.scaled_dot_product_attention(
            queries.transpose(1, 2),
            *held,
            attn_mask=step.mask,
            enable_gqa=self.heads != self.kv_heads,
        )
        return mixed.transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """Two linear maps around GELU, or three around SwiGLU, its first two made as one."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gated = shape.activation == "swiglu"
        self.approximate = "tanh" if shape.activation == "gelu_tanh" else "none"
        self.up = Linear(shape.width, shape.up_width, bias=shape.bias)
        self.down = Linear(shape.feed_forward, shape.width, bias=shape.bias)

    def forward(self, x: Tensor, packed: PackedWeights | None = None) -> Tensor:
        """Map every position of [rows, positions, width] on its own."""
        hidden = self.up(x, packed)
        if not self.gated:
            return self.down(functional.gelu(hidden, approximate=self.approximate), packed)
        gate, value = hidden.chunk(2, dim=-1)
        return self.down(functional.silu(gate) * value, packed)


class Block(nn.Module):
    """One layer: attention and feed-forward, each normalised before and added after.

    One after the other, or both on the same input (``parallel_residual``), as in GPT-J and
    GPT-NeoX (Black et al., "GPT-NeoX-20B", 2022).
    """

    def __init__(self, shape: Shape, *, layer: int) -> None:
        super().__init__()
        self.parallel = shape.parallel_residual
        self.attention_norm = _norm(shape)
        self.attention = Attention(shape, layer=layer)
        self.feed_forward_norm = _norm(shape)
        self.feed_forward = FeedForward(shape)
        self.drop = nn.Dropout(shape.dropout)

    def forward(
        self,
        x: Tensor,
        angles: Angles | None,
        step: CacheStep | None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Return the residual stream [rows, positions, width] after this layer."""
        packed = None if step is None else step.cache.weights
        mixed = x + self.drop(self.attention(self.attention_norm(x), angles, step, segments))
        mapped = x if self.parallel else mixed
        return mixed + self.drop(self.feed_forward(self.feed_forward_norm(mapped), packed))


class TransformerModel(nn.Module):
    """A decoder-only language model; implements :class:`llmforge.interfaces.LanguageModel`.

    Args:
        shape: its sizes and variants.
        vocab_size: tokens it reads and predicts.
    """

    cos: Tensor
    sin: Tensor
    resolution: dict[str, Any]
    """Where the weights came from; only of a model that was not drawn here."""

    def __init__(self, shape: Shape, *, vocab_size: int) -> None:
        super().__init__()
        self.shape, self.context, self.vocab_size = shape, shape.context, vocab_size
        self.embedding = nn.Embedding(vocab_size, shape.width)
        if shape.positions == "learned":
            self.positions = nn.Embedding(shape.context, shape.width)
        else:
            cos, sin = rotary_tables(shape.rotary_size, shape.context, shape.rope_theta)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self.drop = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape, layer=layer) for layer in range(shape.layers))
        self.norm = _norm(shape)
        self.head: nn.Module | None = None  # the embedding is the output matrix
        if not shape.tie_embeddings:
            self.head = Linear(shape.width, vocab_size, bias=False)
        self._initialise()

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy in nats and the number of scored targets.

        Positions see those of their own segment only; padding is left out where that is faster.
        """
        hidden, targets, _ = self._to_score(batch)
        count = (batch["targets"] != IGNORE_INDEX).sum()
        weight = self._output_weight()
        if weight is None:
            return -self._log_probs(hidden, targets).sum(), count
        return linear_cross_entropy(hidden, weight, targets), count

    def sequence_log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each sequence's summed log-probability of scored targets, and their number."""
        hidden, targets, places = self._to_score(batch)
        found = self._log_probs(hidden, targets)
        scored = batch["targets"] != IGNORE_INDEX
        if places is not None:
            found = found.new_zeros(scored.numel()).index_add(0, places, found)
        return found.view(scored.shape).sum(1), scored.sum(1)

    def _log_probs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        weight = self._output_weight()
        if weight is None:
            assert self.head is not None
            return layer_log_probs(hidden, self.head, targets)
        return linear_log_probs(hidden, weight, targets)

    def _to_score(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return hidden states and targets of positions, every scored one among them.

        With them comes where they are in the flattened batch, or None for all as they are.
        """
        segments = find_segments(batch)
        inputs, targets = batch["inputs"], batch["targets"].flatten()
        places = None
        if segments is not None and segments.index is not None:
            places = segments.index
            inputs, targets = inputs.flatten()[places][None], targets[places]
            targets[len(targets) - segments.filler :] = IGNORE_INDEX
        hidden = self._hidden(inputs, None, segments).flatten(0, 1)
        scored = targets != IGNORE_INDEX
        # the logits of other positions are of no use; elsewhere counting them would wait
        if can_be_looked_at(hidden) and int(scored.sum()) not in (0, len(scored)):
            index = _chosen(scored)
            places = index if places is None else places.index_select(0, index)
            hidden, targets = hidden.index_select(0, index), targets.index_select(0, index)
        return hidden, targets, places

    def forward(self, inputs: Tensor, *, cache: KeyValueCache | None = None) -> Tensor:
        """Return logits [rows, positions, vocabulary]; with a cache, extend it."""
        hidden = self._hidden(inputs, cache)
        packed = None if cache is None else cache.weights
        if self.head is not None:
            logits: Tensor = self.head(hidden, packed)
            return logits
        multiply = linear if packed is None else packed.linear
        return multiply(hidden, self.embedding.weight)

    def new_cache(self, rows: int, length: int) -> KeyValueCache:
        """Return an empty cache for ``rows`` sequences of at most ``length`` positions."""
        return KeyValueCache(layers=self.shape.layers, rows=rows, length=length)

    def linear_layers(self) -> dict[str, LinearLayer]:
        """Return the layers that can be replaced, a tied output layer among them."""
        found = linear_layers(self)
        if self.head is None:
            found["head"] = LinearLayer(weight=self.embedding.weight, bias=None)
        return found

    @property
    def architecture(self) -> dict[str, Any]:
        """Sizes and variants, presets resolved."""
        return {**dataclasses.asdict(self.shape), "vocab_size": self.vocab_size}

    def save_hugging_face(
        self, directory: Path, *, tokenizer: Tokenizer, max_shard_size: int
    ) -> None:
        """Write the model as the Llama, Qwen, GPT-2 or GPT-NeoX that it equals.

        Raises:
            ExportError: it equals none; the message names the option in the way.
        """
        from llmforge_plugins.models._hf_folder import save_transformer

        save_transformer(
            self.state_dict(),
            self.shape,
            directory,
            tokenizer=tokenizer,
            max_shard_size=max_shard_size,
        )

    def flops_per_token(self) -> float:
        """Return the floating-point operations of forward and backward for one token.

        A weight that is frozen needs no gradient, two operations less.
        """
        output = self._output_weight()
        frozen = sum(
            weight.numel()
            for weight in (*self.blocks.parameters(), output)
            if weight is not None
            if weight.dim() > 1 and not weight.requires_grad
        )
        return self.shape.flops_per_token(self.vocab_size) - 2.0 * frozen

    def _hidden(
        self, inputs: Tensor, cache: KeyValueCache | None, segments: Segments | None = None
    ) -> Tensor:
        length = inputs.shape[1] if segments is None else segments.longest
        if length > self.context:
            raise ValueError(f"{length} positions exceed the model's context of {self.context}")
        step = None
        positions: Tensor | slice = slice(0, length)
        if cache is not None:
            step = cache.begin(length, context=self.context, device=inputs.device)
            positions = step.positions
        elif segments is not None:
            positions = segments.positions
        x = self.embedding(inputs)
        angles = None
        if self.shape.positions == "learned":
            x = x + self._learned(positions)
        else:
            dtype = _compute_dtype(x)
            cos, sin = self.cos.to(dtype), self.sin.to(dtype)
            if segments is None:
                angles = cos[positions], sin[positions]
            else:
                angles = segments.angles(cos, sin)
        x = self.drop(x)
        for block in self.blocks:
            x = block(x, angles, step, segments)
        hidden: Tensor = self.norm(x)
        return hidden

    def _learned(self, positions: Tensor | slice) -> Tensor:
        table = self.positions.weight
        if isinstance(positions, slice):
            return table[positions]
        return functional.embedding(positions, table)  # its gradient is much faster

    def _output_weight(self) -> Tensor | None:
        """Return the output matrix; None where a quantised layer took its place."""
        if self.head is None:
            return self.embedding.weight
        matrix: Any = self.head.weight
        return matrix if has_matrix(self.head) else None

    def _initialise(self) -> None:
        """Draw weights as GPT-2 does (Radford et al. 2019).

        Normal with deviation 0.02; maps that write to the residual stream are scaled down by
        the root of their number, so that its variance does not grow with depth.
        """
        into_residual = ("attention.out.weight", "feed_forward.down.weight")
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1:
                scale = math.sqrt(2 * self.shape.layers) if name.endswith(into_residual) else 1.0
                nn.init.normal_(parameter, std=_INIT_STD / scale)


def _chosen(scored: Tensor) -> Tensor:
    """Return where ``scored`` is true and, for a number of rows that occurs again, some others."""
    index, others = scored.nonzero().squeeze(1), (~scored).nonzero().squeeze(1)
    return torch.cat([index, others[: rounded_up(len(index)) - len(index)]])


def _norm(shape: Shape) -> nn.Module:
    if shape.norm == "layernorm":
        return nn.LayerNorm(shape.width, eps=shape.norm_epsilon, bias=shape.bias)
    return RmsNorm(shape.width, eps=shape.norm_epsilon)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """Return the precision of matrix products: autocast's where it is on, else that of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
