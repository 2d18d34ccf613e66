"""What MLflow takes as names and values of params, tags and metrics, and a recipe so put."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

NAME_LENGTH = 250
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
MOST_PARAMS = 100
MOST_METRICS = 1000

_NOT_IN_NAMES = re.compile(r"[^/\w.\- ]")


def name(text: str) -> str:
    """Return ``text`` as MLflow takes it: a path without steps, other characters as ``_``."""
    parts = _NOT_IN_NAMES.sub("_", text).split("/")
    kept = "/".join(part for part in parts if part not in ("", ".", ".."))
    return kept[:NAME_LENGTH].rstrip("/") or "_"


def param(value: Any) -> str:
    """Return a param's value, cut to what MLflow keeps."""
    return _text(value)[:PARAM_LENGTH]


def tag(value: Any) -> str:
    """Return a tag's value, cut to what MLflow keeps."""
    return _text(value)[:TAG_LENGTH]


def flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested tables under its dotted name; empty ones are left out."""
    for key, value in tables.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{dotted}.")
        elif value is not None and value != "" and value != []:
            yield dotted, value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
