"""Writes metrics and samples as CSV files for spreadsheets and data frames.

A kill at any instant leaves them whole, and they never have a value twice.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge import Component, events, hookimpl

STEP = "step"
_LONGEST_TEXT = 1 << 30  # the module's own limit is shorter than a long sample

Row = dict[str, Any]


class Csv(Component, kind="tracker"):
    """CSV files under ``<run>/trackers/csv``: a row per step, and a row per generated text."""

    def __init__(self, options: object = None) -> None:
        super().__init__(options)
        self._metrics: MetricsTable | None = None
        self._samples: SamplesTable | None = None

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        """Open the files where an earlier start left them."""
        directory = Path(event.directory) / "trackers" / self.name
        directory.mkdir(parents=True, exist_ok=True)
        self._metrics = MetricsTable(directory / "metrics.csv")
        self._samples = SamplesTable(directory / "samples.csv")

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Write values into the row of their step."""
        self._table().put(event.step, event.values)

    @hookimpl
    def forge_eval_end(self, event: events.EvaluationEnded) -> None:
        """Write the evaluation's values into the row of their step."""
        self._table().put(event.step, event.values)

    @hookimpl
    def forge_samples(self, event: events.SamplesGenerated) -> None:
        """Write a row for every generated text."""
        if self._samples is None:
            raise RuntimeError("forge_run_start has not been called")
        self._samples.put(event.step, event.samples)

    def _table(self) -> MetricsTable:
        if self._metrics is None:
            raise RuntimeError("forge_run_start has not been called")
        return self._metrics


class MetricsTable:
    """A wide table with one row per step, in the order of the steps.

    Values usually belong to a new last row or to the last row, which is one small write; a new
    column, or a step before the last, rewrites the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = [STEP]
        self._last: Row = {}
        self._last_at = 0
        if not path.exists():
            self._replace([])
        cut_torn_line(path)
        self._load()

    def put(self, step: int, values: Mapping[str, Any]) -> None:
        """Fill ``values`` into the row of ``step``; cells that are filled already stay."""
        values = {name: value for name, value in values.items() if name != STEP}
        if not values:
            return
        row = {STEP: step, **values}
        last = int(self._last.get(STEP, -1))
        if step < last or not values.keys() <= set(self._columns):
            self._insert(row)
        elif step > last:
            self._write(row, at=self._path.stat().st_size)
        else:
            self._write(_filled(self._last, row), at=self._last_at)

    def _write(self, row: Row, *, at: int) -> None:
        """Write ``row`` at a byte offset; a row only grows, so nothing of an old one is left."""
        line = _text([[row.get(name, "") for name in self._columns]]).encode()
        end = self._path.stat().st_size
        with self._path.open("r+b", buffering=0) as file:
            file.seek(at)
            if file.write(line) != len(line):  # no room: leave what was there, which is shorter
                file.truncate(end)
                raise OSError(f"{self._path}: no room for a row")
        self._last, self._last_at = row, at

    def _insert(self, row: Row) -> None:
        """Rewrite the file with ``row`` in its place."""
        rows = {int(item[STEP]): item for item in read_table(self._path)}
        step = row[STEP]
        rows[step] = _filled(rows.get(step, {}), row)
        self._columns += [name for name in row if name not in self._columns]
        self._replace([rows[key] for key in sorted(rows)])
        self._load()

    def _replace(self, rows: Iterable[Row]) -> None:
        write_table(self._path, self._columns, rows)

    def _load(self) -> None:
        """Find the columns and the last row."""
        content = self._path.read_bytes()
        self._columns = next(csv.reader(io.StringIO(content.decode(), newline="")))
        header = len(_text([self._columns]).encode())
        self._last, self._last_at = {}, header
        if len(content) > header:
            self._last_at = content.rindex(b"\n", 0, len(content) - 1) + 1
            cells = next(csv.reader([content[self._last_at :].decode()]))
            self._last = dict(zip(self._columns, cells, strict=True))


class SamplesTable:
    """A row per generated text; few enough to rewrite the file whenever there are new ones."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Add the samples of ``step`` unless the table has some of it already."""
        rows = read_table(self._path) if self._path.exists() else []
        if not samples or any(int(row[STEP]) == step for row in rows):
            return
        rows += [{**sample, STEP: step} for sample in samples]
        columns = dict.fromkeys([STEP, "prompt", "text", *(key for row in rows for key in row)])
        write_table(self._path, list(columns), rows)


def read_table(path: Path) -> list[Row]:
    """Return the rows of a table, every cell a text."""
    csv.field_size_limit(_LONGEST_TEXT)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Replace a table in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    cells = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    try:
        temporary.write_bytes(_text(cells).encode(errors="replace"))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cut_torn_line(path: Path) -> None:
    """Cut off a last line that a kill left without its end; the header was never torn."""
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _filled(old: Row, new: Row) -> Row:
    """Return ``old`` with its empty cells filled from ``new``."""
    return {**new, **{name: value for name, value in old.items() if value != ""}}


def _text(rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
