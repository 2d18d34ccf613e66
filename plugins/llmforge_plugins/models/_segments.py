"""Attention within the examples of a batch, which may share rows or leave part of them empty.

What is fastest differs by device, so there are three layouts:

* On a CPU the model computes no padding at all. The positions of a batch that matter become one
  long row of tokens, those of examples of like length next to each other. Linear maps run over it
  as it is, attention over blocks of it, each as many examples as are alike, filled up to the
  longest. A mask over whole rows would compute several times as many scores, most of them for
  nothing.
* On a GPU a kernel for sequences of any length takes the row as it is.
* Otherwise, where a compiler wants fixed shapes or there is no such kernel, a mask over whole rows
  hides other examples.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from llmforge.interfaces import IGNORE_INDEX, Batch
from llmforge_plugins.models._attention import (
    causal_attention,
    explicit_attention,
    explicit_attention_backward,
    later_positions,
    rotate,
    takes_explicit,
)

Rotary = tuple[Tensor, Tensor]  # cosines and sines

_ALIKE = 0.8
"""Examples are alike, and share a block, down to this share of the longest one's length."""
_SHORT = 16
"""Examples of at most so many tokens are all alike: a block of its own costs more than it saves."""
_LITTLE = 1 / 16
"""Share of a batch below which leaving positions out saves nothing."""


def rounded_up(count: int) -> int:
    """Return a number of tokens that occurs again: up to an eighth more than ``count``.

    Matrix kernels keep what they prepared for each size, and the C library's heap has room of the
    sizes that were freed. Where every batch has a size of its own, both grow with every batch: by
    1 GB within 100 steps of a small model. There are eight sizes between a power of two and the
    next; more of them were no faster.
    """
    step = 1 << max(0, count.bit_length() - 4)
    return -(-count // step) * step


class Segments(ABC):
    """Where the examples of a batch are.

    Attributes:
        index: which positions of the flattened batch are computed, in which order, int64; None for
            all of them, as they are.
        positions: of what is computed within its example, in the shape of the inputs.
        longest: tokens of the longest example at most.
        filler: positions at the end of ``index`` that are computed for nothing: they are of no
            example, so what is at their places is not theirs to score.
    """

    index: Tensor | None = None
    filler: int = 0
    positions: Tensor
    longest: int

    def angles(self, cos: Tensor, sin: Tensor) -> Rotary:
        """Return what :meth:`attention` wants of tables by position."""
        return cos[self.positions], sin[self.positions]

    @abstractmethod
    def attention(
        self, qkv: Tensor, heads: int, rotary: Rotary | None, *, dropout: float
    ) -> Tensor:
        """Return causal attention within each example, as :func:`causal_attention` does."""


def find_segments(batch: Batch) -> Segments | None:
    """Return where the examples of ``batch`` are; None when its rows are best computed whole.

    A position after the last scored one of its example changes nothing that is scored. On a CPU
    such positions are left out, whether rows are packed or only padded.
    """
    inputs, targets = batch["inputs"], batch["targets"]
    segments = batch.get("segments")
    if can_be_looked_at(inputs):
        scored = (targets.flatten() != IGNORE_INDEX).nonzero().squeeze(1)
        found = _blocks(_starts(targets, segments), scored, targets.numel())
        skipped = 1 - len(found.index) / targets.numel() if found else 0.0
        if found is not None and (segments is not None or skipped > _LITTLE):
            return found
    if segments is None:
        return None
    eager = not torch.compiler.is_compiling()
    if inputs.device.type == "cuda" and eager and _variable_length() is not None:
        return _Sequences(segments, batch["positions"])
    return _Masked(segments, batch["positions"])


def can_be_looked_at(tensor: Tensor) -> bool:
    """Return whether what is computed may depend on the values of ``tensor``, at no cost.

    On a GPU reading them would wait for it; a compiler, and what traces sizes, has none.
    """
    if torch.compiler.is_compiling():
        return False
    return tensor.device.type == "cpu" and type(tensor) is Tensor


def _starts(targets: Tensor, segments: Tensor | None) -> Tensor:
    """Return where each example begins in the flattened batch: with a row or a new number."""
    if segments is None:
        return torch.arange(0, targets.numel(), targets.shape[1], device=targets.device)
    begins = torch.ones_like(segments, dtype=torch.bool)
    torch.ne(segments[:, 1:], segments[:, :-1], out=begins[:, 1:])
    return begins.flatten().nonzero().squeeze(1)


# On a CPU: blocks of examples of like length ----------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """Examples of like length, one after the other among the tokens.

    Attributes:
        tokens: of all of them together.
        rows: how many there are.
        length: of the longest.
        filled: int64 [rows · length]: for every place of the block the token that is there, or any
            token where the example has ended; None when all are equally long.
        places: int64 [tokens]: the place of each token.
    """

    tokens: int
    rows: int
    length: int
    filled: Tensor | None
    places: Tensor | None

    def fill(self, values: Tensor) -> Tensor:
        """Return ``values`` [tokens, …] as [rows, length, …]; what fills it up is not scored."""
        if self.filled is not None:
            values = values.index_select(0, self.filled)
        return values.view(self.rows, self.length, *values.shape[1:])

    def spread(self, values: Tensor) -> Tensor:
        """Return ``values`` [tokens, …] as [rows, length, …] with zeros elsewhere."""
        if self.places is not None:
            zeros = values.new_zeros(self.rows * self.length, *values.shape[1:])
            values = zeros.index_copy_(0, self.places, values)
        return values.view(self.rows, self.length, *values.shape[1:])

    def take(self, values: Tensor) -> Tensor:
        """Return the tokens of a block [rows, length, …] as [tokens, …]."""
        values = values.flatten(0, 1)
        return values if self.places is None else values.index_select(0, self.places)


class _Blocks(Segments):
    index: Tensor

    def __init__(self, index: Tensor, positions: Tensor, blocks: Sequence[_Block]) -> None:
        self.filler = rounded_up(len(index)) - len(index)
        if self.filler:  # each as an example of its own, of one token
            index, positions = (
                functional.pad(each, (0, self.filler)) for each in (index, positions)
            )
            blocks = [*blocks, _Block(self.filler, self.filler, 1, None, None)]
        self.index, self.positions, self.blocks = index, positions[None], tuple(blocks)
        self.longest = max(block.length for block in blocks)

    def angles(self, cos: Tensor, sin: Tensor) -> Rotary:
        return cos[: self.longest], sin[: self.longest]

    def attention(
        self, qkv: Tensor, heads: int, rotary: Rotary | None, *, dropout: float
    ) -> Tensor:
        flat = qkv.flatten(0, 1)
        cos, sin = rotary or (None, None)
        if takes_explicit(qkv, self.longest, dropout):
            mixed: Tensor = _BlockAttention.apply(flat, cos, sin, heads, self.blocks, dropout)
            return mixed[None]
        parts = []
        for block, part in zip(
            self.blocks, flat.split([block.tokens for block in self.blocks]), strict=True
        ):
            angles = rotary and (rotary[0][: block.length], rotary[1][: block.length])
            of_block = causal_attention(block.fill(part), heads, angles, dropout=dropout)
            parts.append(block.take(of_block))
        return torch.cat(parts)[None]


class _BlockAttention(torch.autograd.Function):
    """Explicit attention block by block."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        heads: int,
        blocks: tuple[_Block, ...],
        dropout: float,
    ) -> Tensor:
        """Return the mixed values [tokens, heads · size] of [tokens, maps, size]."""
        output = qkv.new_empty(qkv.shape[0], heads * qkv.shape[-1])
        longest = max(block.length for block in blocks)
        mask = later_positions(qkv, longest)
        saved: list[Tensor | None] = []
        start = 0
        for block in blocks:
            part = slice(start, start + block.tokens)
            start += block.tokens
            mixed, kept = explicit_attention(
                block.fill(qkv[part]),
                _head(cos, block),
                _head(sin, block),
                heads,
                mask=mask[: block.length, : block.length],
                dropout=dropout,
            )
            output[part] = block.take(mixed)
            saved += kept
        ctx.save_for_backward(*saved, cos, sin)
        ctx.blocks, ctx.shape = blocks, qkv.shape
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """Return the gradient of ``qkv``."""
        *saved, cos, sin = ctx.saved_tensors
        of_qkv = grad.new_empty(ctx.shape)
        each = len(saved) // len(ctx.blocks)
        start = 0
        for number, block in enumerate(ctx.blocks):
            part = slice(start, start + block.tokens)
            start += block.tokens
            kept = tuple(saved[number * each : (number + 1) * each])
            of_block = explicit_attention_backward(
                block.spread(grad[part]), kept, _head(cos, block), _head(sin, block)
            )
            of_qkv[part] = block.take(of_block)
        return of_qkv, None, None, None, None, None


def _head(table: Tensor | None, block: _Block) -> Tensor | None:
    return None if table is None else table[: block.length]


def _blocks(starts: Tensor, scored: Tensor, size: int) -> _Blocks | None:
    """Return the blocks of examples that begin at ``starts``; None when nothing is scored."""
    ends = torch.cat([starts[1:], starts.new_tensor([size])])
    before = torch.searchsorted(scored, ends)  # scored positions before the end of each
    has_scored = before > torch.searchsorted(scored, starts)
    starts, before = starts[has_scored], before[has_scored]
    if not len(starts):
        return None
    lengths, order = torch.sort(scored[before - 1] + 1 - starts, descending=True, stable=True)
    starts = starts[order]
    within = _counted(lengths)
    index = within + starts.repeat_interleave(lengths)
    blocks = [_block(part) for part in lengths.split(_alike(lengths.tolist()))]
    return _Blocks(index, within, blocks)


def _alike(lengths: list[int]) -> list[int]:
    """Return how many of falling lengths share each block."""
    counts: list[int] = []
    least = 0.0
    for length in lengths:
        if not counts or length < least:
            counts.append(0)
            least = length * _ALIKE if length > _SHORT else 0.0
        counts[-1] += 1
    return counts


def _block(lengths: Tensor) -> _Block:
    rows, length = len(lengths), int(lengths[0])
    tokens = int(lengths.sum())
    if tokens == rows * length:
        return _Block(tokens, rows, length, None, None)
    firsts = lengths.cumsum(0) - lengths
    last = (lengths - 1)[:, None]
    filled = torch.minimum(torch.arange(length, device=lengths.device), last) + firsts[:, None]
    rows_before = torch.arange(rows, device=lengths.device) * length
    places = _counted(lengths) + rows_before.repeat_interleave(lengths)
    return _Block(tokens, rows, length, filled.flatten(), places)


def _counted(lengths: Tensor) -> Tensor:
    """Return 0, 1, … up to each length, one after the other."""
    firsts = lengths.cumsum(0) - lengths
    total = int(lengths.sum())
    return torch.arange(total, device=lengths.device) - firsts.repeat_interleave(lengths)


# On a GPU, and for compilers ---------------------------------------------------------------------


class _Masked(Segments):
    """Whole rows under a mask."""

    def __init__(self, segments: Tensor, positions: Tensor) -> None:
        self.positions, self.longest = positions, positions.shape[1]
        same = segments[:, None, :, None] == segments[:, None, None, :]
        causal = torch.ones(same.shape[-2:], dtype=torch.bool, device=same.device).tril()
        self.mask = same & causal

    def attention(
        self, qkv: Tensor, heads: int, rotary: Rotary | None, *, dropout: float
    ) -> Tensor:
        queries, keys, values = _heads(qkv, heads, rotary)
        mixed = functional.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=self.mask,
            dropout_p=dropout,
            enable_gqa=keys.shape[2] != heads,
        )
        return mixed.transpose(1, 2).flatten(2)


class _Sequences(Segments):
    """Sequences of any length, one after the other, by PyTorch's kernel for them.

    It is for half precision without dropout; anything else goes under the mask. Finding out where
    the examples begin waits for the GPU once a micro-batch.
    """

    def __init__(self, segments: Tensor, positions: Tensor) -> None:
        self.positions, self.longest = positions, positions.shape[1]
        starts = _starts(segments, segments)
        end = starts.new_tensor([segments.numel()])
        self.ends = torch.cat([starts, end]).to(torch.int32)
        self._segments = segments
        self._masked: _Masked | None = None

    def attention(
        self, qkv: Tensor, heads: int, rotary: Rotary | None, *, dropout: float
    ) -> Tensor:
        kernel = _variable_length()
        if kernel is None or dropout or qkv.dtype not in (torch.float16, torch.bfloat16):
            if self._masked is None:
                self._masked = _Masked(self._segments, self.positions)
            return self._masked.attention(qkv, heads, rotary, dropout=dropout)
        queries, keys, values = (part.flatten(0, 1) for part in _heads(qkv, heads, rotary))
        grouped = {"enable_gqa": True} if keys.shape[1] != heads else {}
        mixed = kernel(
            queries, keys, values, self.ends, self.ends, self.longest, self.longest, **grouped
        )
        return mixed.view(*qkv.shape[:2], -1)


def _heads(qkv: Tensor, heads: int, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
    kv_heads = (qkv.shape[2] - heads) // 2
    queries, keys, values = qkv.split((heads, kv_heads, kv_heads), dim=2)
    if rotary is not None:
        queries, keys = rotate(queries, *rotary), rotate(keys, *rotary)
    return queries, keys, values


@cache
def _variable_length() -> Callable[..., Tensor] | None:
    """Return PyTorch's causal attention over sequences of any length, None where it has none.

    It is FlashAttention (Dao 2023), which needs an Ampere GPU or newer.
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    if "enable_gqa" not in known:
        return None
    if "window_size" in known:
        return lambda *args, **more: varlen_attn(*args, window_size=(-1, 0), **more)  # type: ignore[return-value]
    return lambda *args, **more: varlen_attn(*args, is_causal=True, **more)  # type: ignore[call-arg, return-value]
