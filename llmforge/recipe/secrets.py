"""Recognising values that must not stand in a recipe, because a recipe is kept and uploaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmforge.recipe.key_lines import KeyPath
from llmforge.redaction import holds_credential, is_secret_name

_REMEDY = "take it out of the recipe and put it in the environment or .env"


def find_secrets(tables: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield (key, what is wrong) for every value that looks like a secret, never the value."""
    for key, value in tables.items():
        path = (*prefix, key)
        if isinstance(value, Mapping):
            yield from find_secrets(value, path)
        elif _may_hold_one(value) and is_secret_name(key):
            yield path, "looks like a secret"
        elif any(holds_credential(text) for text in _texts(value)):
            yield path, "the value holds a credential"


def remedy(variables: Sequence[str]) -> str:
    """Return where a secret belongs; ``variables`` are the names it is looked for under."""
    return f"{_REMEDY}, as {' and '.join(variables)}" if variables else _REMEDY


def _may_hold_one(value: Any) -> bool:
    return isinstance(value, str | list | int) and not isinstance(value, bool) and value != ""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
