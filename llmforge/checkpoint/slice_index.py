"""Tensors whose pieces are in several files: the index that says which piece is where. No torch.

``model.safetensors.index.json``::

    {"format_version": 1,
     "tensors": {
      "wte.weight": {"dtype": "F32", "shape": [100, 8], "slices": [
        {"file": "model-00001-of-00002.safetensors", "begin": 0, "count": 400},
        {"file": "model-00002-of-00002.safetensors", "begin": 400, "count": 400}]}}}

``begin`` and ``count`` are elements of the row-major flattened whole; a file has its piece under
the tensor's own name. The pieces of a tensor cover it without gap or overlap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.checkpoint.safetensors_header import ITEM_SIZES, read_header
from llmforge.errors import CheckpointError

INDEX_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Piece:
    """``count`` elements of a tensor from ``begin``, in ``file``."""

    file: str
    begin: int
    count: int

    @property
    def end(self) -> int:
        """The element after the last."""
        return self.begin + self.count


@dataclass(frozen=True)
class Pieces:
    """A tensor's type by its name in safetensors, its shape, and its pieces in order."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def count(self) -> int:
        """Number of elements of the whole."""
        return math.prod(self.shape)


Index = Mapping[str, Pieces]
"""Every tensor by its name."""


def indexed(name: str, dtype: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> Pieces:
    """Return the tensor ``name`` made of ``pieces`` in any order; empty ones are left out.

    Raises:
        CheckpointError: they leave some of it out, or some is there twice.
    """
    ordered = sorted((piece for piece in pieces if piece.count), key=lambda piece: piece.begin)
    whole = Pieces(dtype, shape, tuple(ordered))
    end, before = 0, ""
    for piece in ordered:
        if piece.begin > end:
            raise CheckpointError(_missing(name, end, piece.begin))
        if piece.begin < end:
            twice = _elements(piece.begin, min(end, piece.end))
            raise CheckpointError(f"{before} and {piece.file} both have {twice} of tensor '{name}'")
        end, before = piece.end, piece.file
    if end < whole.count:
        raise CheckpointError(_missing(name, end, whole.count))
    if end > whole.count:
        raise CheckpointError(
            f"{before} goes beyond the end of tensor '{name}', "
            f"which has {whole.count} elements, to {end}"
        )
    return whole


def encode_index(index: Index) -> bytes:
    """Return ``index`` as JSON, a line for each tensor."""
    lines = [
        f"  {json.dumps(name)}: "
        + json.dumps(
            {
                "dtype": item.dtype,
                "shape": item.shape,
                "slices": [
                    {"file": piece.file, "begin": piece.begin, "count": piece.count}
                    for piece in item.pieces
                ],
            }
        )
        for name, item in sorted(index.items())
    ]
    head = f'{{\n "format_version": {INDEX_FORMAT_VERSION},\n "tensors": {{\n'
    return (head + ",\n".join(lines) + "\n }\n}\n").encode()


def read_index(path: Path) -> Index:
    """Return the index in ``path``.

    Raises:
        CheckpointError: it cannot be read, is of a later format, or tensors are not complete.
    """
    try:
        body = json.loads(path.read_bytes())
        version = int(body["format_version"])
        if version > INDEX_FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format_version {version}, this llmforge reads up to "
                f"{INDEX_FORMAT_VERSION}",
                remedy="install the llmforge that wrote it, or a later one",
            )
        return {name: _decode(path, name, item) for name, item in body["tensors"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def index_of_file(path: Path) -> Index:
    """Return the index of one safetensors file that holds every tensor whole.

    Raises:
        CheckpointError: it cannot be read.
    """
    _, places = read_header(path)
    return {
        place.name: Pieces(place.dtype, place.shape, (Piece(path.name, 0, place.count),))
        for place in places.values()
    }


def _decode(path: Path, name: str, item: Mapping[str, Any]) -> Pieces:
    dtype, shape = item["dtype"], tuple(item["shape"])
    pieces = [Piece(piece["file"], piece["begin"], piece["count"]) for piece in item["slices"]]
    numbers = (*shape, *(number for piece in pieces for number in (piece.begin, piece.count)))
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"tensor '{name}' has a shape or place that is not a whole number")
    if dtype not in ITEM_SIZES:
        raise ValueError(f"tensor '{name}' is of the unknown type {dtype}")
    if any(Path(piece.file).name != piece.file for piece in pieces):
        raise ValueError(f"tensor '{name}' is recorded outside the checkpoint")
    try:
        return indexed(name, dtype, shape, pieces)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}") from error


def _missing(name: str, begin: int, end: int) -> str:
    verb = "is" if end == begin + 1 else "are"
    return f"{_elements(begin, end)} of tensor '{name}' {verb} in no file"


def _elements(begin: int, end: int) -> str:
    return f"element {begin}" if end == begin + 1 else f"elements {begin} to {end - 1}"
