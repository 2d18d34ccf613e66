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
    index and under a mask. Rows may join and leave at any time: a store then has more places than
    there are rows, the rows are the first of them, and what leaves is replaced by the last.

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

    def new_row(
        self, length: int, *, source: KeyValueCache | None = None, count: int = 0
    ) -> KeyValueCache:
        """Return a cache of one row for ``length`` positions; see ``RowCache`` of the interfaces.

        Raises:
            ValueError: ``source`` is not one row of at least ``count`` positions.
        """
        row = KeyValueCache(layers=len(self._held), rows=1 if source is None else 0, length=length)
        row.weights = self.weights
        if source is not None:
            row._insert(source, count)
        return row

    def insert(self, source: KeyValueCache) -> None:
        """Add the only row of ``source`` as the last.

        Raises:
            ValueError: it is not one row, or does not fit.
        """
        self._insert(source, source._longest)

    def _insert(self, source: KeyValueCache, count: int) -> None:
        if source._rows != 1 or not 0 <= count <= min(source._longest, self._room):
            raise ValueError(
                f"one row of {count} positions or more is needed, for a room of {self._room}; "
                f"got {source._rows} of {source._longest}"
            )
        lengths = [*self._each_length(), count]
        for index, held in enumerate(source._held):
            if held is None:
                continue
            stores = self._held[index]
            if stores is None or len(stores[0]) == self._rows:
                stores = self._held[index] = self._grown(stores, held)
            for store, part in zip(stores, held, strict=True):
                store[self._rows, :, :count] = part[0, :, :count]
        self._rows += 1
        self._take_lengths(lengths)

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        lengths = self._each_length()
        last = self._rows - 1
        for held in self._held:
            for store in held or ():
                if row != last:
                    store[row, :, : self._longest] = store[last, :, : self._longest]
                store[last, :, : self._longest] = 0  # for the next: NaN would outlast its mask
        lengths[row] = lengths[last]
        self._rows = last
        self._take_lengths(lengths[:last])

    def _each_length(self) -> list[int]:
        if self._lengths is None:
            return [self._longest] * self._rows
        values: list[int] = self._lengths.tolist()
        return values

    def _take_lengths(self, lengths: list[int]) -> None:
        self._longest = max(lengths, default=0)
        unequal = min(lengths, default=0) < self._longest
        self._lengths = torch.tensor(lengths) if unequal else None

    def _grown(
        self, stores: tuple[Tensor, Tensor] | None, like: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return stores with twice the places, which hold what ``stores`` did."""
        places = max(1, 2 * self._rows)
        wider = [
            part.new_zeros((places, part.shape[1], self._room, part.shape[3])) for part in like
        ]
        for store, old in zip(wider, stores or (), strict=False):
            store[: self._rows] = old
        return wider[0], wider[1]

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
            mask = None
            if new > 1:
                mask = torch.arange(end, device=device) <= positions[:, None]
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
        if len(held[0]) > self._rows:
            return held[0][: self._rows], held[1][: self._rows]
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
