"""Names of tensors: their order as people count, and the layer that each belongs to."""

from __future__ import annotations

import re

_NUMBERS = re.compile(r"(\d+)")


def layer_of(name: str) -> str:
    """Return the layer of a tensor: its name up to the first number, else without the last part.

    ``blocks.3.attention.qkv.weight`` is in ``blocks.3``, ``embedding.weight`` in ``embedding``.
    """
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[: index + 1])
    return ".".join(parts[:-1]) or name


def natural_order(name: str) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts ``blocks.2`` before ``blocks.10``."""
    parts = _NUMBERS.split(name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)
