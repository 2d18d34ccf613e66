"""The rows of a run's metrics, as they are or one per epoch."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from llmforge.errors import RunError
from llmforge.run.reporting.metrics_files import read_rows

Row = dict[str, Any]

EPOCH_END = "train/loss_epoch"
"""Only the row that ends an epoch has it."""


def metric_rows(path: Path) -> list[Row]:
    """Return the complete rows of ``metrics.jsonl``, ``timing.jsonl`` or ``samples.jsonl``.

    Raises:
        RunError: a row is damaged.
    """
    try:
        return list(read_rows(path))
    except ValueError as error:
        raise RunError(
            f"{path} has a damaged row: {error}", remedy="correct that line or remove it"
        ) from error


def per_epoch(rows: Iterable[Row]) -> list[Row]:
    """Return one row per epoch: the last value of each column within it.

    The last epoch may be incomplete; its row then has no ``train/loss_epoch``.
    """
    epochs: list[Row] = []
    current: Row = {}
    for row in rows:
        current |= row
        if EPOCH_END in row:
            epochs.append(current)
            current = {}
    return [*epochs, current] if current else epochs


def columns(rows: Sequence[Row]) -> list[str]:
    """Return the names of all columns, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def write_csv(rows: Sequence[Row], file: TextIO) -> None:
    """Write ``rows`` as CSV with a header; a missing value is an empty field."""
    writer = csv.DictWriter(file, fieldnames=columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
