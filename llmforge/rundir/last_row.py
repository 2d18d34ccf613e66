"""The newest row of a file of rows, without reading what is before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_TAIL_BYTES = 65536


def last_row(path: Path) -> dict[str, Any]:
    """Return the last complete row, reading only the end of the file; empty when there is none.

    Lines that are damaged are passed over.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            continue
        if isinstance(row, dict):
            return row
    return {}
