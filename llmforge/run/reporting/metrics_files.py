"""The files of values: rows by step, cut back to a checkpoint's step when a run resumes."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from llmforge.rundir.atomic import append_line

_HISTORY_POINTS = 200


class RowFile:
    """A file of JSON rows, appended to as the run goes."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("ab", buffering=0)

    def append(self, row: Mapping[str, Any]) -> None:
        """Append one row; it is in the page cache when this returns."""
        append_line(self._file, json.dumps(row, separators=(", ", ": ")).encode() + b"\n")

    def sync(self) -> None:
        """Force the rows to the disk; called from the checkpoint's thread."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LossHistory:
    """Loss and learning rate over the run, thinned, for a checkpoint's ``metadata.json``."""

    def __init__(self) -> None:
        self._steps = array("q")
        self._loss = array("d")
        self._rate = array("d")

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a metrics row; rows without a training loss are passed over."""
        if "train/loss" in row:
            self._steps.append(row["step"])
            self._loss.append(row["train/loss"])
            self._rate.append(row["lr"])

    def points(self) -> dict[str, list[float]]:
        """Return at most 200 points, evenly thinned, the newest always among them."""
        every = -(-len(self._steps) // _HISTORY_POINTS) or 1
        picked = range(len(self._steps) - 1, -1, -every)[::-1]
        return {
            "step": [self._steps[index] for index in picked],
            "train/loss": [self._loss[index] for index in picked],
            "lr": [self._rate[index] for index in picked],
        }


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete rows of a file of JSON rows; a missing file has none.

    Raises:
        ValueError: a row is damaged; the message has its line.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield _row(line, number)


def _row(line: bytes, number: int) -> dict[str, Any]:
    try:
        row: object = json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error.msg}, column {error.colno}") from error
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number}: it is no row of values")
    return row


def cut_rows(path: Path, *, from_step: int) -> None:
    """Cut off the rows of step ``from_step`` and later, and a torn last line."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return
    with file:
        keep = 0
        for line in file:
            if not line.endswith(b"\n") or json.loads(line).get("step", 0) >= from_step:
                break
            keep += len(line)
        file.truncate(keep)
        os.fsync(file.fileno())
