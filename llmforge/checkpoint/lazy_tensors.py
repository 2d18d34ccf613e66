"""The tensors of a checkpoint, read from the disk when they are asked for. No torch until then."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.checkpoint.safetensors_header import ITEM_SIZES, read_header
from llmforge.checkpoint.slice_index import Index, Piece, index_of_file, read_index
from llmforge.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class StoredTensors(Mapping[str, "Tensor"]):
    """Tensors by name, in one file or in the slices that several ranks wrote.

    Nothing is kept: each access maps what it returns again, and the memory goes with the tensor, so
    that a reader who takes one after the other never holds two. What is written into a tensor
    does not reach the file.

    Args:
        folder: where the files lie.
        index: which tensor lies where.

    Raises:
        CheckpointError: a file is missing or damaged, or does not hold what the index says.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self._folder = folder
        self._index = index
        files = sorted({piece.file for item in index.values() for piece in item.pieces})
        self._places = {file: read_header(folder / file) for file in files}
        for name, item in index.items():
            for piece in item.pieces:
                self._check(name, item.dtype, piece)

    @classmethod
    def of_index(cls, path: Path) -> StoredTensors:
        """Return the tensors of the index file ``path``, their files beside it."""
        return cls(path.parent, read_index(path))

    @classmethod
    def of_file(cls, path: Path) -> StoredTensors:
        """Return the tensors of the safetensors file ``path``."""
        return cls(path.parent, index_of_file(path))

    def __getitem__(self, name: str) -> Tensor:
        """Return the whole tensor ``name``."""
        item = self._index[name]
        return self.slice(name, 0, item.count).view(item.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def without(self, names: Collection[str]) -> StoredTensors:
        """Return these tensors without those of ``names``."""
        kept = {name: item for name, item in self._index.items() if name not in names}
        return StoredTensors(self._folder, kept)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the whole tensor ``name``, reading nothing."""
        return self._index[name].shape

    def dtype(self, name: str) -> str:
        """Return the type of tensor ``name`` as safetensors names it, reading nothing."""
        return self._index[name].dtype

    def slice(self, name: str, begin: int, count: int) -> Tensor:
        """Return ``count`` elements of the flattened tensor ``name`` from ``begin``, as 1-D.

        Only the pieces that hold them are read; where one piece does, nothing is copied.

        Raises:
            KeyError: there is no such tensor.
            CheckpointError: it has no such elements, or they cannot be read.
        """
        import torch

        item = self._index[name]
        if begin < 0 or count < 0 or begin + count > item.count:
            raise CheckpointError(
                f"tensor '{name}' in {self._folder} has {item.count} elements, "
                f"not {count} from {begin} on"
            )
        if count == 0:
            return torch.empty(0, dtype=_torch_dtype(item.dtype))
        end = begin + count
        pieces = [piece for piece in item.pieces if piece.begin < end and piece.end > begin]
        if len(pieces) == 1:
            return self._map(name, pieces[0], begin, end)
        joined = torch.empty(count, dtype=_torch_dtype(item.dtype))
        for piece in pieces:
            first, last = max(begin, piece.begin), min(end, piece.end)
            joined[first - begin : last - begin] = self._map(name, piece, first, last)
        return joined

    def _map(self, name: str, piece: Piece, begin: int, end: int) -> Tensor:
        """Return elements ``begin`` to ``end`` of the whole, all of which are in ``piece``."""
        import torch

        data, places = self._places[piece.file]
        place = places[name]
        size = ITEM_SIZES[place.dtype]
        first = data + place.begin + (begin - piece.begin) * size
        page = first - first % mmap.ALLOCATIONGRANULARITY
        try:
            with (self._folder / piece.file).open("rb") as file:
                memory = mmap.mmap(
                    file.fileno(),
                    first - page + (end - begin) * size,
                    access=mmap.ACCESS_COPY,
                    offset=page,
                )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"tensor '{name}' cannot be read from {self._folder / piece.file}: {error}"
            ) from error
        return torch.frombuffer(
            memory, dtype=_torch_dtype(place.dtype), count=end - begin, offset=first - page
        )

    def _check(self, name: str, dtype: str, piece: Piece) -> None:
        path, place = self._folder / piece.file, self._places[piece.file][1].get(name)
        if place is None:
            raise CheckpointError(f"{path} does not hold its piece of tensor '{name}'")
        if place.dtype != dtype:
            raise CheckpointError(f"{path} holds tensor '{name}' as {place.dtype}, not as {dtype}")
        if place.count != piece.count:
            raise CheckpointError(
                f"{path} holds {place.count} elements of tensor '{name}' instead of {piece.count}"
            )


def _torch_dtype(name: str) -> torch.dtype:
    from llmforge.checkpoint.host_tensors import DTYPES

    return next(dtype for dtype, text in DTYPES.items() if text == name)
