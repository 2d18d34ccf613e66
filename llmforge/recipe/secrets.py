"""Recognising values that must not stand in a recipe, because a recipe is kept and uploaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmforge.recipe.lines import KeyPath

REMEDY = "take it out of the recipe and put it in the environment or .env"

_NAME = re.compile(
    r"(^|_)(api_?key|access_?key|secret_?key|private_?key|password|passwd|secret|credentials?)($|_)"
    r"|^((api|access|auth|bearer|hf|hub|refresh|session|wandb)_?)?token$",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@"  # a URL with a password
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\b(hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,})\b",
    re.IGNORECASE,
)


def is_secret_name(name: str) -> bool:
    """Return whether a value called ``name`` must not be shown: a password, key or token."""
    return bool(_NAME.search(name.replace("-", "_")))


def find_secrets(tables: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Return (key, what is wrong) for every value that looks like a secret, never the value."""
    for key, value in tables.items():
        path = (*prefix, key)
        if isinstance(value, Mapping):
            yield from find_secrets(value, path)
        elif isinstance(value, str | list) and value and is_secret_name(key):
            yield path, "looks like a secret"
        elif any(_VALUE.search(text) for text in _texts(value)):
            yield path, "the value holds a credential"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
