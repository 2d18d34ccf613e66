"""``forge.json`` beside a saved tokenizer: what it was when it was saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmforge.errors import DataError

_NAME = "forge.json"


def write_record(directory: Path, *, type_name: str, fingerprint: str) -> None:
    """Write the record of a tokenizer saved in ``directory``."""
    record = {"format_version": 1, "type": type_name, "fingerprint": fingerprint}
    (directory / _NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check_record(directory: Path, *, type_name: str, fingerprint: str | None = None) -> None:
    """Check that ``directory`` holds a saved tokenizer of this type and with this content.

    Raises:
        DataError: it holds none, another one, or one that was changed since.
    """
    path = directory / _NAME
    record = read_json(path)
    if record.get("type") != type_name:
        raise DataError(f"{path} is of type {record.get('type')!r}, not {type_name!r}")
    if fingerprint is not None and record.get("fingerprint") != fingerprint:
        raise DataError(
            f"the tokenizer in {directory} was changed after it was saved",
            remedy="restore the folder; a model only works with the tokenizer it was trained with",
        )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises:
        DataError: the file is missing or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} does not hold a JSON object")
    return content
