"""The key-value cache of the transformer: what makes a new token cost one position, not all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmforge_plugins.models._packed import PackedWeights


class KeyValueCache:
    """Keys and values of every layer for the positions already seen.

    While all rows are equally long, new positions go to one slice and a single new one needs no
    mask. After :meth:`set_lengths` with unequal lengths each row continues from its own length, by
    index and under a mask.

    Args:
        layers: attention layers.
        rows: sequences.
        length: most positions of a sequence.

    Attributes:
        weights: the model's weights as generation multiplies them fastest.
    """

    def __init__(self, *, layers: int, rows: int, length: int) -> None:
        self.weights = PackedWeights()
        self._rows, self._room = rows, length
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._longest = 0
        self._lengths: Tensor | None = None  # None while all rows hold ``_longest`` positions

    def set_lengths(self, lengths: Tensor) -> None:
        """Say how many positions of each row count; the rest is ignored and overwritten.

        Raises:
            ValueError: not one length for each row, or one that is more than what was fed.
        """
        values = lengths.tolist()
        if len(values) != self._rows or min(values) < 0 or max(values) > self._longest:
            raise ValueError(
                f"{self._rows} lengths of at most {self._longest} are needed, got {values}"
            )
        self._longest = max(values)
        self._lengths = None if min(values) == self._longest else lengths.clone()

    def select(self, rows: Tensor) -> None:
        """Make row ``i`` what row ``rows[i]`` was; int64, rows may be left out or repeated."""
        self._rows = len(rows)
        self._held = [
            None if held is None else (held[0][rows], held[1][rows]) for held in self._held
        ]
        if self._lengths is not None:
            self.set_lengths(self._lengths[rows.to(self._lengths.device)])

    def begin(self, new: int, *, context: int, device: torch.device) -> CacheStep:
        """Make room for ``new`` positions in every row.

        Raises:
            ValueError: they exceed the cache or the model's ``context``.
        """
        start, end = self._longest, self._longest + new
        room = min(context, self._room)
        if end > room:
            raise ValueError(f"{start} cached + {new} new positions exceed the room for {room}")
        self._longest = end
        positions = torch.arange(new, device=device)
        if self._lengths is None:
            positions += start
            held = torch.arange(end, device=device)
            mask = None if new == 1 else held <= positions[:, None]
            return CacheStep(self, slice(start, end), positions, mask)
        positions = self._lengths.to(device)[:, None] + positions
        self._lengths = self._lengths + new
        held = torch.arange(end, device=device)
        return CacheStep(self, slice(0, end), positions, held <= positions[:, None, :, None])

    def layer(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the whole store of one layer, made on its first use for such keys and values."""
        held = self._held[index]
        if held is None:
            held = self._empty(keys), self._empty(values)
            self._held[index] = held
        return held

    def _empty(self, like: Tensor) -> Tensor:
        # zeros, not garbage: NaN times a weight of zero would still be NaN
        return like.new_zeros((self._rows, like.shape[1], self._room, like.shape[3]))


@dataclass(frozen=True)
class CacheStep:
    """One pass of new positions through all layers.

    Attributes:
        cache: what they are stored in.
        span: where they go if all rows are equally long, else everything up to the longest.
        positions: their positions, [new], or [rows, new] when rows are unequally long.
        mask: True where a new position sees a held one, broadcastable to
            [rows, heads, new, held]; None when it sees all of them.
    """

    cache: KeyValueCache
    span: slice
    positions: Tensor
    mask: Tensor | None

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [rows, heads, new, size] and return all keys and values of the layer so far."""
        stores = self.cache.layer(layer, keys, values)
        for store, part in zip(stores, (keys, values), strict=True):
            if self.positions.dim() == 1:
                store[:, :, self.span] = part
            else:
                store.scatter_(2, self.positions[:, None, :, None].expand(part.shape), part)
        end = self.span.stop
        return stores[0][:, :, :end], stores[1][:, :, :end]
