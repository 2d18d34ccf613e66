"""The header of a safetensors file: which tensor lies where in it. Imports no torch.

The format is that of https://github.com/huggingface/safetensors (README, "Format"): the length
of the header as a little-endian uint64, the header as JSON that maps a name to ``dtype``,
``shape`` and ``data_offsets``, then the data without gaps. Larger elements come first in the files
written here, so that every tensor is aligned to its element size; equal tensors give equal files.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.errors import CheckpointError

ITEM_SIZES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of an element by the name the format has for its type."""

_METADATA = "__metadata__"
_ALIGNMENT = 8
_LONGEST = 100_000_000  # bytes; the safetensors library reads no longer header either


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: bytes ``begin`` to ``end`` of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def lay_out(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[Place, ...]:
    """Return a place for each of ``tensors``, given as (dtype, shape) by name, in file order."""
    places = []
    begin = 0
    ordered = sorted(tensors.items(), key=lambda item: (-ITEM_SIZES[item[1][0]], item[0]))
    for name, (dtype, shape) in ordered:
        end = begin + math.prod(shape) * ITEM_SIZES[dtype]
        places.append(Place(name, dtype, shape, begin, end))
        begin = end
    return tuple(places)


def encode_header(places: tuple[Place, ...], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return what a file with ``places`` begins with; ``metadata`` is for people."""
    entries: dict[str, object] = {_METADATA: {"format": "pt", **(metadata or {})}}
    for place in places:
        entries[place.name] = {
            "dtype": place.dtype,
            "shape": list(place.shape),
            "data_offsets": [place.begin, place.end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def read_header(path: Path) -> tuple[int, dict[str, Place]]:
    """Return where the data section of ``path`` begins, and every place by name.

    Raises:
        CheckpointError: it is missing, unreadable or no safetensors file.
    """
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _LONGEST + 1
            entries = json.loads(file.read(length)) if length <= _LONGEST else None
            size = file.seek(0, 2) - 8 - length
        if not isinstance(entries, dict):
            raise ValueError("it has no header")
        entries.pop(_METADATA, None)
        places = {name: _place(name, entry) for name, entry in entries.items()}
        _check(places, size)
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise CheckpointError(f"{path} cannot be read: {reason}") from error
    return 8 + length, places


def _place(name: str, entry: Mapping[str, Any]) -> Place:
    begin, end = entry["data_offsets"]
    place = Place(name, entry["dtype"], tuple(entry["shape"]), begin, end)
    if not all(type(number) is int and number >= 0 for number in (*place.shape, begin, end)):
        raise ValueError(f"tensor '{name}' has a shape or place that is not a whole number")
    if place.dtype not in ITEM_SIZES:
        raise ValueError(f"tensor '{name}' is of the unknown type {place.dtype}")
    if end - begin != place.count * ITEM_SIZES[place.dtype]:
        raise ValueError(f"tensor '{name}' does not fit its place")
    return place


def _check(places: Mapping[str, Place], size: int) -> None:
    """Check that ``places`` fill the ``size`` bytes of data without gap or overlap."""
    end = 0
    for place in sorted(places.values(), key=lambda place: (place.begin, place.end)):
        if place.begin != end:
            raise ValueError(f"tensor '{place.name}' is not where the one before it ends")
        end = place.end
    if end != size:
        raise ValueError(f"it has {size} bytes of data instead of {end}")
