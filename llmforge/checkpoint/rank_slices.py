"""Which rank writes which tensors into which file. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmforge.checkpoint.format import Part, slice_file, tensor_file
from llmforge.checkpoint.slice_index import Index, Piece, indexed
from llmforge.errors import CheckpointError


@dataclass(frozen=True)
class Held:
    """What a rank holds of a tensor: ``count`` elements of the flattened whole from ``begin``."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    count: int

    def to_json(self) -> list[Any]:
        """Return it in the form that is sent to other ranks."""
        return [self.dtype, list(self.shape), self.begin, self.count]

    @classmethod
    def from_json(cls, item: Sequence[Any]) -> Held:
        """Return what :meth:`to_json` told."""
        dtype, shape, begin, count = item
        return cls(dtype, tuple(shape), begin, count)


Holding = Mapping[str, Held]
"""Everything a rank holds of a part of the state, by the names of tensors."""


@dataclass(frozen=True)
class Shares:
    """The file each rank writes, None for no file, and the index; None when one file has all."""

    files: tuple[str | None, ...]
    index: Index | None


def share_out(part: Part, holdings: Sequence[Holding]) -> Shares:
    """Return who writes what of ``part``.

    Args:
        part: ``model`` or ``optimizer``.
        holdings: what each rank holds, the leader first.

    Raises:
        CheckpointError: together they do not hold every tensor exactly once.
    """
    busy = [any(held.count for held in holding.values()) for holding in holdings]
    leaders = holdings[0].values()
    if not any(busy[1:]) and all((held.begin, held.count) == (0, _size(held)) for held in leaders):
        return Shares((tensor_file(part), *(None for _ in holdings[1:])), None)
    files = tuple(
        slice_file(part, rank, len(holdings)) if busy[rank] else None
        for rank in range(len(holdings))
    )
    names = dict.fromkeys(name for holding in holdings for name in holding)
    index = {}
    for name in names:
        held = {rank: holding[name] for rank, holding in enumerate(holdings) if name in holding}
        _require_same_kind(name, held)
        some = next(iter(held.values()))
        pieces = [
            Piece(file, item.begin, item.count)
            for rank, item in held.items()
            if (file := files[rank]) is not None
        ]
        index[name] = indexed(name, some.dtype, some.shape, pieces)
    return Shares(files, index)


def _require_same_kind(name: str, held: Mapping[int, Held]) -> None:
    kinds = {rank: (item.dtype, item.shape) for rank, item in held.items()}
    first = min(kinds)
    for rank, (dtype, shape) in kinds.items():
        if (dtype, shape) != kinds[first]:
            told = f"{kinds[first][0]} {list(kinds[first][1])} on rank {first}"
            raise CheckpointError(
                f"tensor '{name}' is {told} and {dtype} {list(shape)} on rank {rank}"
            )


def _size(held: Held) -> int:
    return math.prod(held.shape)
