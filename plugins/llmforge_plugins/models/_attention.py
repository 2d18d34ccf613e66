"""Causal self-attention: rotary positions, grouped queries, and the fastest kernel for the case.

PyTorch's fused attention on a CPU is made for long sequences. At contexts of a few hundred its
backward pass in bf16 is several times slower than plain matrix products around a softmax (16 × 4
heads × 128 positions: 16 ms against 3), so short sequences on a CPU take those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from llmforge_plugins.models._kernels import chosen_kernel

ATTENTION, WITH_DROPOUT = "attention", "attention with dropout"
EXPLICIT, FUSED = "explicit", "torch"

_LONGEST_EXPLICIT = 512  # the probabilities are kept for the backward pass: quadratic in this


def rotary_tables(size: int, length: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of rotary positions, each [length, 1, size / 2] in fp32.

    As Su et al., "RoFormer" (2021), with the pairs (i, i + size / 2) of GPT-NeoX and LLaMA.
    """
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(length, dtype=torch.float64)[:, None, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``heads`` [..., positions, heads, size] turned by the angles of their positions.

    Tables for less than ``size`` turn as many leading elements and leave the others.
    """
    half = cos.shape[-1]
    first, second, rest = heads.tensor_split((half, 2 * half), dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def wide_tables(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Return tables for :func:`turned`, as wide as what they turn."""
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Do what :func:`rotate` does, in three operations instead of ten: for few positions."""
    size = cos.shape[-1]
    if size < heads.shape[-1]:
        return torch.cat((turned(heads[..., :size], cos, sin), heads[..., size:]), dim=-1)
    return torch.addcmul(heads * cos, heads.roll(size // 2, dims=-1), sin)


def cached_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention of new positions over held ones, [rows, heads, new, size].

    A CPU's fused attention of a single new position in bf16 takes three times as long as it does
    with numbers that are widened for it (one row of 4 heads over 200 positions: 62 µs against 20).
    Mask: True where a new position sees a held one, None where it sees all.
    """
    dtype = queries.dtype
    if dtype == torch.bfloat16 and queries.device.type == "cpu" and queries.shape[2] == 1:
        queries, keys, values = queries.float(), keys.float(), values.float()
    mixed = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, enable_gqa=queries.shape[1] != keys.shape[1]
    )
    return mixed.to(dtype)


def causal_attention(
    qkv: Tensor, heads: int, rotary: tuple[Tensor, Tensor] | None, *, dropout: float = 0.0
) -> Tensor:
    """Return attention of every position over itself and those before it.

    Args:
        qkv: queries, keys and values [rows, positions, heads + 2 · kv_heads, size].
        heads: number of query heads.
        rotary: cosines and sines of the positions in the precision of ``qkv``, or None; where
            they are for less than ``size``, the other elements of a head are left as they are.
        dropout: share of attention weights to drop.

    Returns:
        [rows, positions, heads · size].
    """
    rows, positions, maps, size = qkv.shape
    kv_heads = (maps - heads) // 2
    if takes_explicit(qkv, positions, dropout):
        cos, sin = rotary or (None, None)
        mixed: Tensor = _ExplicitAttention.apply(qkv, cos, sin, heads, dropout)
        return mixed
    queries, keys, values = qkv.split((heads, kv_heads, kv_heads), dim=2)
    if rotary is not None:
        queries, keys = rotate(queries, *rotary), rotate(keys, *rotary)
    output = functional.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        is_causal=True,
        dropout_p=dropout,
        enable_gqa=kv_heads != heads,
    )
    return output.transpose(1, 2).reshape(rows, positions, heads * size)


def takes_explicit(qkv: Tensor, positions: int, dropout: float) -> bool:
    """Return whether attention over ``positions`` is written out as matrix products.

    With dropout only where that was measured to be faster.
    """
    if qkv.device.type != "cpu" or positions > _LONGEST_EXPLICIT:
        return False
    if dropout:
        return chosen_kernel(WITH_DROPOUT) == EXPLICIT
    return chosen_kernel(ATTENTION) != FUSED


class _ExplicitAttention(torch.autograd.Function):
    """Attention as matrix products around a softmax, with its gradient written out."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        heads: int,
        dropout: float,
    ) -> Tensor:
        """Return the mixed values; keeps queries, keys, values and probabilities."""
        mixed, kept = explicit_attention(qkv, cos, sin, heads, dropout=dropout)
        ctx.save_for_backward(*kept, cos, sin)
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the gradient of ``qkv``."""
        *kept, cos, sin = ctx.saved_tensors
        return explicit_attention_backward(grad, tuple(kept), cos, sin), None, None, None, None


Kept = tuple[Tensor | None, ...]
"""Queries, keys, values, probabilities and what dropout scaled them by: for the backward pass."""


def later_positions(like: Tensor, positions: int) -> Tensor:
    """Return what is added to scores: minus infinity for later positions, else nothing."""
    return like.new_full((positions, positions), float("-inf")).triu_(1)


def explicit_attention(
    qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    heads: int,
    *,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Kept]:
    """Return causal attention [rows, positions, heads · size], and what its gradient needs.

    Query heads that share a key head are stacked along the positions, so that grouped queries
    are the same batched product with more rows and nothing is repeated. A ``mask`` is that of
    :func:`later_positions`, for those who need it often.
    """
    rows, positions, maps, size = qkv.shape
    kv_heads = (maps - heads) // 2
    batch = (rows * kv_heads, -1, size)
    queries = _heads_first(qkv[:, :, :heads], cos, sin).view(batch)
    keys = _heads_first(qkv[:, :, heads : heads + kv_heads], cos, sin).view(batch)
    values = _heads_first(qkv[:, :, heads + kv_heads :], None, None).view(batch)
    scores = _scaled_product(queries, keys.transpose(1, 2), size**-0.5)
    square = scores.view(-1, positions, positions)
    square += later_positions(scores, positions) if mask is None else mask
    probabilities = torch.softmax(scores, dim=-1, out=scores)
    kept = None
    if dropout:
        kept = torch.empty_like(probabilities).bernoulli_(1 - dropout).div_(1 - dropout)
    mixed = torch.bmm(_dropped(probabilities, kept), values)
    output = _positions_first(mixed, rows, heads).reshape(rows, positions, heads * size)
    return output, (queries, keys, values, probabilities, kept)


def explicit_attention_backward(
    grad: Tensor, kept: Kept, cos: Tensor | None, sin: Tensor | None
) -> Tensor:
    """Return the gradient of ``qkv`` for that of the output, both in their shapes."""
    queries, keys, values, probabilities, scale_kept = kept
    assert queries is not None and keys is not None and values is not None
    assert probabilities is not None
    rows, positions, width = grad.shape
    size = queries.shape[-1]
    heads, kv_heads = width // size, queries.shape[0] // rows
    mixed = _heads_first(grad.view(rows, positions, heads, size), None, None)
    mixed = mixed.view(queries.shape)
    of_probabilities = _dropped(torch.bmm(mixed, values.transpose(1, 2)), scale_kept)
    scores = torch._softmax_backward_data(of_probabilities, probabilities, -1, probabilities.dtype)
    scale = size**-0.5
    of_qkv = grad.new_empty(rows, positions, heads + 2 * kv_heads, size)
    of_queries, of_keys, of_values = of_qkv.split((heads, kv_heads, kv_heads), dim=2)
    of_values.copy_(
        _positions_first(
            torch.bmm(_dropped(probabilities, scale_kept).transpose(1, 2), mixed), rows, kv_heads
        )
    )
    for target, product in (
        (of_queries, _scaled_product(scores, keys, scale)),
        (of_keys, _scaled_product(scores.transpose(1, 2), queries, scale)),
    ):
        _turn(_positions_first(product, rows, target.shape[2]), cos, sin, target, back=True)
    return of_qkv


def _dropped(probabilities: Tensor, kept: Tensor | None) -> Tensor:
    return probabilities if kept is None else probabilities * kept


def _heads_first(heads: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    """Return [rows, positions, heads, size] as contiguous [rows, heads, positions, size]."""
    rows, positions, count, size = heads.shape
    output = heads.new_empty(rows, count, positions, size)
    _turn(heads, cos, sin, output.transpose(1, 2))
    return output


def _positions_first(heads: Tensor, rows: int, count: int) -> Tensor:
    """Return [rows · kv_heads, group · positions, size] as [rows, positions, heads, size]."""
    return heads.view(rows, count, -1, heads.shape[-1]).transpose(1, 2)


def _turn(
    heads: Tensor, cos: Tensor | None, sin: Tensor | None, output: Tensor, *, back: bool = False
) -> None:
    """Write ``heads``, turned by their positions' angles (or back), to ``output``."""
    if cos is None or sin is None:
        output.copy_(heads)
        return
    sign, half = -1 if back else 1, cos.shape[-1]
    first, second, rest = heads.tensor_split((half, 2 * half), dim=-1)
    to_first, to_second, to_rest = output.tensor_split((half, 2 * half), dim=-1)
    to_rest.copy_(rest)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin, value=sign)


def _scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Return ``scale * left @ right`` of batches in one kernel."""
    output = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    return torch.baddbmm(output, left, right, beta=0, alpha=scale, out=output)
