"""Values in the small files of a run that are not as this program writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_LARGEST = 1e11
"""Steps and seconds beyond which no run and no calendar goes."""


def in_range(value: object) -> bool:
    """Return whether a value is a number that may be a step, a count or a time."""
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return usable and -_LARGEST < value < _LARGEST  # type: ignore[operator]


def wrong_value(
    body: Mapping[str, Any], kinds: Mapping[str, Any], *, any_number: Collection[str] = ()
) -> str:
    """Return the first value of the wrong kind, as after an edit by hand; empty if there is none.

    Args:
        body: names and values; names that are not in ``kinds`` are passed over.
        kinds: what ``isinstance`` takes, by name.
        any_number: names whose numbers are no steps or times, and may be anything.
    """
    for name, value in body.items():
        if name not in kinds:
            continue
        right = isinstance(value, kinds[name]) and not isinstance(value, bool)
        if right and isinstance(value, int | float) and name not in any_number:
            right = in_range(value)
        if not right:
            return f"{name} is {value!r:.60}"
    return ""
