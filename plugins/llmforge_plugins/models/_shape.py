"""The shape of a decoder-only transformer: its presets and what can be counted without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

_NEOX: Mapping[str, Any] = {
    "width": 2048,
    "heads": 16,
    "rotary_fraction": 0.25,
    "norm": "layernorm",
    "activation": "gelu",
    "bias": True,
    "tie_embeddings": False,
    "parallel_residual": True,
}
"""GPT-NeoX's architecture (Black et al. 2022) at the width of its models of about 1.2 billion."""

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "nano": {"layers": 3, "width": 128, "heads": 4},
        "tiny": {"layers": 4, "width": 256, "heads": 4},
        "small": {"layers": 8, "width": 512, "heads": 8},
        "medium": {"layers": 12, "width": 768, "heads": 12},
        "large": {"layers": 16, "width": 1024, "heads": 16},
        "neox-1b": {"layers": 16, **_NEOX},
        "neox-1.2b": {"layers": 24, **_NEOX},
    }
)
"""What each preset sets beside what :class:`Shape` has by default; options replace either."""

_GATE_CHANNELS = 12  # as modded nanoGPT has it
_ROUND_TO = 64  # hidden widths that are multiples of this keep matrix kernels on their fast path


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Every number that decides a transformer's parameters and arithmetic.

    Attributes:
        layers: number of blocks.
        width: size of the residual stream.
        heads: query heads.
        head_size: width of one attention head, usually ``width / heads``.
        kv_heads: key and value heads; each serves ``heads / kv_heads`` query heads.
        feed_forward: hidden width of the feed-forward part.
        context: longest sequence in tokens.
        positions: rotary embeddings in every attention, or one learned table at the input.
        norm: normalisation before attention, before the feed-forward part and at the end.
        activation: SwiGLU (two input matrices, one gates the other) or GELU (one), exact or by its
            approximation with tanh, or the square of ReLU.
        tie_embeddings: whether the output matrix is the embedding matrix.
        dropout: share of activations dropped while training.
        bias: whether linear maps and LayerNorm have a bias.
        qkv_bias: whether the map to queries, keys and values has one.
        qk_norm: whether queries and keys are normalised head by head (RMSNorm).
        norm_epsilon: what normalisations add to the mean square.
        rope_theta: base of the rotary frequencies.
        rotary_fraction: share of each head that rotary embeddings turn; the rest has no position.
        parallel_residual: whether both parts of a block read its input, so that they are added to
            it together, instead of the second reading what the first made.
        zero_init: whether maps that write to the residual stream begin as zeros.
        value_embeddings: layers that add an embedding of the token to their values; the outermost.
        attention_gate: whether each head is scaled by what a few channels of its input say.
        embedding_residual: whether every layer reads a mix of the stream and the embedding.
        skips: whether layers of the second half read what those of the first half did, mirrored.
        bigram_embeddings: rows of the table that embeds a token with the one before it, by their
            hash; 0 for none.
        token_shift: whether the embedding of the token before is added to each, gated.
        logit_softcap: what the size of logits is held below, smoothly; 0 for no bound.
        multi_token: weight of the loss of the token after the next while training; 0 for none.
    """

    layers: int
    width: int
    heads: int
    head_size: int
    kv_heads: int
    feed_forward: int
    context: int
    positions: Literal["rope", "learned"] = "rope"
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    activation: Literal["swiglu", "gelu", "gelu_tanh", "relu2"] = "swiglu"
    tie_embeddings: bool = True
    dropout: float = 0.0
    bias: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    norm_epsilon: float = 1e-5
    rope_theta: float = 10_000.0
    rotary_fraction: float = 1.0
    parallel_residual: bool = False
    zero_init: bool = False
    value_embeddings: int = 0
    attention_gate: bool = False
    embedding_residual: bool = False
    skips: bool = False
    bigram_embeddings: int = 0
    token_shift: bool = False
    logit_softcap: float = 0.0
    multi_token: float = 0.0

    @property
    def mixed_width(self) -> int:
        """Width of all query heads together, which attention puts out."""
        return self.heads * self.head_size

    @property
    def rotary_size(self) -> int:
        """Leading elements of a head that rotary embeddings turn."""
        return int(self.head_size * self.rotary_fraction)

    @property
    def qkv_width(self) -> int:
        """Outputs of the map that makes queries, keys and values at once."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    @property
    def up_width(self) -> int:
        """Outputs of the first feed-forward map: gate and value at once for SwiGLU."""
        return self.feed_forward * (2 if self.activation == "swiglu" else 1)

    def has_value_embedding(self, layer: int) -> bool:
        """Return whether a layer is one of the outermost that have a value embedding."""
        first = -(-self.value_embeddings // 2)
        return layer < first or layer >= self.layers - (self.value_embeddings - first)

    @property
    def gate_channels(self) -> int:
        """Leading channels of the residual stream that gates of attention read."""
        return min(_GATE_CHANNELS, self.width)

    @property
    def kv_width(self) -> int:
        """Width of all value heads together."""
        return self.kv_heads * self.head_size

    def matrix_parameters(self) -> int:
        """Return the weights of all blocks' linear maps, biases left out."""
        attention = self.qkv_width + self.mixed_width
        return self.layers * self.width * (attention + self.up_width + self.feed_forward)

    def block_parameters(self) -> int:
        """Return the trainable parameters of all blocks."""
        biases = self.width + self.up_width + self.width
        others = 2 * self.width * self._norm_parts + (biases if self.bias else 0)
        others += (self.qkv_width if self.qkv_bias else 0) + (2 * self.head_size * self.qk_norm)
        others += (
            2 * self.embedding_residual + self.heads * self.gate_channels * self.attention_gate
        )
        return self.matrix_parameters() + self.layers * others + self.value_embeddings

    def parameters(self, vocab_size: int) -> int:
        """Return the number of trainable parameters with ``vocab_size`` tokens."""
        embeddings = vocab_size * self.width * (1 if self.tie_embeddings else 2)
        if self.positions == "learned":
            embeddings += self.context * self.width
        embeddings += vocab_size * self.kv_width * self.value_embeddings
        embeddings += self.bigram_embeddings * self.width
        others = self.width * self._norm_parts + (self.layers // 2 if self.skips else 0)
        if self.token_shift:
            others += self.width
        if self.multi_token:
            others += self.width * (self.width + self._norm_parts)
        return embeddings + self.block_parameters() + others

    @property
    def _norm_parts(self) -> int:
        """Vectors of one normalisation: a scale, and LayerNorm's bias."""
        return 2 if self.norm == "layernorm" and self.bias else 1

    def flops_per_token(self, vocab_size: int) -> float:
        """Return forward and backward floating-point operations for one token.

        Two per weight forward and four backward, attention over the whole context added, as
        Chowdhery et al., "PaLM" (2022), appendix B; looking tokens up costs nothing.
        """
        weights = self.matrix_parameters() + vocab_size * self.width
        if self.multi_token:
            weights += (vocab_size + self.width) * self.width
        return 6.0 * weights + 12.0 * self.layers * self.mixed_width * self.context


def default_feed_forward(width: int, activation: str) -> int:
    """Return the hidden width that gives the feed-forward part 8 ``width``² weights.

    That is 4 ``width`` for GELU and, with SwiGLU's third matrix, 8/3 ``width`` (Shazeer, "GLU
    Variants Improve Transformer", 2020), rounded to a multiple of 64 where that is at least 64.
    """
    if activation != "swiglu":
        return 4 * width
    exact = 8 * width / 3
    return max(_ROUND_TO, round(exact / _ROUND_TO) * _ROUND_TO)
