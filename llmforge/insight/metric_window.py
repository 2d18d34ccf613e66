"""The rows of a run's metrics before a step, read without the rest of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

from llmforge.errors import RunError
from llmforge.insight.metrics import Row

_CHUNK = 1 << 16


def rows_up_to(path: Path, step: int, *, most: int) -> list[Row]:
    """Return the last ``most`` rows of ``metrics.jsonl`` up to and with ``step``.

    Rows are in order of steps, so that the place in the file is found by bisection: it takes as
    long for a run of 100,000 steps as for one of ten.

    Raises:
        RunError: a row is damaged.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return []
    with file:
        try:
            end = _end_of(file, step)
            lines = _lines_before(file, end, most)
            return [json.loads(line) for line in lines]
        except (ValueError, LookupError, TypeError) as error:
            raise RunError(
                f"{path} has a damaged row: {error}", remedy="correct that line or remove it"
            ) from error


def _end_of(file: BinaryIO, step: int) -> int:
    """Return the place in ``file`` where the rows up to ``step`` end."""
    low, high = 0, file.seek(0, 2)
    while low < high:  # rows that begin before low are wanted, those that begin from high on not
        middle = (low + high) // 2
        file.seek(max(0, middle - 1))
        if middle:
            file.readline()
        begin = file.tell()
        line = file.readline()
        if begin < high and line.endswith(b"\n") and _step(json.loads(line)) <= step:
            low = begin + len(line)
        else:
            high = middle
    return low


def _lines_before(file: BinaryIO, end: int, most: int) -> list[bytes]:
    """Return the last ``most`` lines before ``end``."""
    text, begin = b"", end
    while begin > 0 and text.count(b"\n") <= most:
        size = min(_CHUNK, begin)
        begin -= size
        file.seek(begin)
        text = file.read(size) + text
    return text.splitlines()[-most:] if most else []


def _step(row: Any) -> int:
    return int(row["step"])
