"""The metrics of a run in training: its newest values and its curves, from appended rows only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmforge.monitor.appended_lines import AppendedLines
from llmforge.monitor.curve import Curve

TRAIN_LOSS, VAL_LOSS = "train/loss", "val/loss"
CURVES = (TRAIN_LOSS, VAL_LOSS)
_MOST_PARSED = 4096
_EVALUATED = b'"val/'


class Metrics:
    """What ``metrics.jsonl`` says so far.

    Of a long file that is opened late, rows at equal distances are parsed, and all of those with
    an evaluation: the curves are thinned anyway.

    Args:
        path: the file; it may appear later.

    Attributes:
        values: the newest value of each metric, ``step`` among them.
        curves: losses in nats by name.
        version: another number whenever a curve has changed.
    """

    def __init__(self, path: Path) -> None:
        self._lines = AppendedLines(path)
        self.version = 0
        self._clear()

    def _clear(self) -> None:
        self.values: dict[str, Any] = {}
        self.curves: Mapping[str, Curve] = {name: Curve() for name in CURVES}

    def look(self) -> None:
        """Take the rows that are new."""
        if self._lines.look():
            self.version += 1
            self._clear()
        for line in self._chosen():
            try:
                row = json.loads(line)
                step = int(row["step"])
            except (ValueError, LookupError, TypeError):
                continue  # damaged; 'forge runs metrics' reports it
            self.values |= row
            self.version += 1
            for name, curve in self.curves.items():
                if isinstance(value := row.get(name), int | float):
                    curve.add(step, value)

    def _chosen(self) -> Iterator[bytes]:
        """Yield the new lines that are worth parsing, the last one always."""
        stride = self._lines.waiting // _MOST_PARSED
        place = wanted = 0
        left_out = b""
        for line in self._lines.lines():
            if place >= wanted or _EVALUATED in line:
                wanted = place + stride
                left_out = b""
                yield line
            else:
                left_out = line
            place += len(line)
        if left_out:
            yield left_out
