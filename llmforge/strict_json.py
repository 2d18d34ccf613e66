"""Values as JSON that every parser takes."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON; NaN and infinities become strings, and so does what JSON lacks."""
    separators = None if indent else (",", ":")
    try:
        return json.dumps(value, indent=indent, allow_nan=False, default=str, separators=separators)
    except (ValueError, TypeError):  # a number that is none, or a key that is no string
        strict = _strict(value)
        return json.dumps(
            strict, indent=indent, allow_nan=False, default=str, separators=separators
        )


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
