"""Files of metric rows, read as they grow: what was read once is not read again."""

from __future__ import annotations

import json
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import BufferReader, types
from pyarrow.json import ReadOptions, read_json

from llmforge.insight.downsample import Floats

_Part = Sequence[Floats]
"""Places of rows among those read together, their steps, and their values of one metric."""

_MOST_VALUES = 16_000_000
"""Values in memory over all files, 8 bytes each; the files longest unused are dropped first."""

_PIECE = 8 << 20
_MANY = 64 << 10
"""Bytes from which on Arrow's reader is worth its set-up: it is three times as fast."""

_MARK = 256
"""Bytes before the place read up to, by which a file that was cut and regrew is recognised."""


class Column:
    """The values of one metric with the steps they are of, in order of rows."""

    def __init__(self) -> None:
        self.steps = array("d")
        self.values = array("d")

    def extend(self, parts: Sequence[_Part]) -> None:
        """Append values of rows, in the order of their places."""
        places, steps, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if len(parts) > 1:
            order = places.argsort(kind="stable")
            steps, values = steps[order], values[order]
        self.steps.frombytes(steps.tobytes())
        self.values.frombytes(values.tobytes())


class MetricFile:
    """The columns of one file of JSON rows.

    Attributes:
        columns: by name, those of numbers only.
        generation: one more each time the file was cut or replaced, so that all is read again.
        damaged: complete lines that are no JSON object.
        size: values in memory.
        lock: to hold while the file is refreshed or its columns are used.
    """

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self.size = 0
        self.columns: dict[str, Column] = {}
        self.generation = 0
        self.damaged = 0
        self._path = path
        self._inode = 0
        self._offset = 0
        self._mark = b""

    def refresh(self) -> None:
        """Read what the file has beyond what is known; a file that is gone has nothing."""
        try:
            with self._path.open("rb") as file:
                self._read(file)
        except (FileNotFoundError, NotADirectoryError):
            if self._offset:
                self._forget()
        self.size = sum(2 * len(column.values) for column in self.columns.values())

    def _read(self, file: Any) -> None:
        status = os.fstat(file.fileno())
        grown = status.st_size - self._offset
        if self._offset and (status.st_ino != self._inode or grown < 0):
            self._forget()
        elif self._offset and grown:
            file.seek(self._offset - len(self._mark))
            if file.read(len(self._mark)) != self._mark:
                self._forget()
        self._inode = status.st_ino
        file.seek(self._offset)
        rest = b""
        while piece := file.read(_PIECE):
            lines, newline, rest = (rest + piece).rpartition(b"\n")
            if newline:
                self._take(lines)
                self._offset += len(lines) + 1
                self._mark = lines[1 - _MARK :] + newline

    def _take(self, lines: bytes) -> None:
        if len(lines) >= _MANY:
            try:
                for name, part in _arrow_parts(lines):
                    column = self.columns.get(name) or self.columns.setdefault(name, Column())
                    column.extend([part])
                return
            except (
                ValueError
            ):  # as rows that differ in kind are for Arrow; they are read one by one
                pass
        try:
            rows = json.loads(b"[" + lines.replace(b"\n", b",") + b"]")
        except ValueError:
            rows = [_row(line) for line in lines.split(b"\n")]
        found: dict[str, list[_Part]] = {}
        for names, places in self._alike(rows).items():
            if "step" in names:
                for name, part in _parts(names, places, rows):
                    found.setdefault(name, []).append(part)
        for name, parts in found.items():
            column = self.columns.get(name) or self.columns.setdefault(name, Column())
            column.extend(parts)

    def _alike(self, rows: list[Any]) -> dict[tuple[str, ...], list[int]]:
        """Return the places of rows by the names they have: most rows have the same."""
        alike: dict[tuple[str, ...], list[int]] = {}
        for place, row in enumerate(rows):
            if isinstance(row, dict):
                alike.setdefault(tuple(row), []).append(place)
            else:
                self.damaged += 1
        return alike

    def _forget(self) -> None:
        self.columns = {}
        self.generation += 1
        self.damaged = self._offset = 0
        self._mark = b""


class MetricFiles:
    """The files that were looked at last, within a bound of memory; for several threads."""

    def __init__(self, *, most_values: int = _MOST_VALUES) -> None:
        self._files: OrderedDict[Path, MetricFile] = OrderedDict()
        self._most = most_values
        self._lock = threading.Lock()

    @contextmanager
    def opened(self, paths: Sequence[Path]) -> Iterator[list[MetricFile]]:
        """Yield files as they are now, held so that no other thread changes them.

        Each file has a lock of its own, so that several runs are read at a time; whoever opens
        several files of a run names them in the same order.
        """
        with ExitStack() as held:
            files = []
            for path in paths:
                with self._lock:
                    file = self._files.setdefault(path, MetricFile(path))
                    self._files.move_to_end(path)
                held.enter_context(file.lock)
                file.refresh()
                files.append(file)
            self._trim()
            yield files

    def open(self, path: Path) -> MetricFile:
        """Return a file as it is now, for one thread."""
        with self.opened([path]) as (file,):
            return file

    def _trim(self) -> None:
        with self._lock:
            total = sum(file.size for file in self._files.values())
            while total > self._most and len(self._files) > 1:
                _, oldest = self._files.popitem(last=False)
                total -= oldest.size


def _arrow_parts(lines: bytes) -> list[tuple[str, _Part]]:
    """Return the columns of numbers in many lines of JSON.

    Raises:
        ValueError: Arrow does not take them.
    """
    options = ReadOptions(use_threads=False, block_size=len(lines) + 1)
    table = read_json(BufferReader(lines), read_options=options)

    def is_number(name: str) -> bool:
        kind = table.schema.field(name).type
        return bool(types.is_integer(kind) or types.is_floating(kind))

    if "step" not in table.column_names or not is_number("step"):
        raise ValueError("no steps")
    has_step = table["step"].is_valid().to_numpy()
    steps = table["step"].to_numpy().astype(np.float64)
    places = np.arange(table.num_rows, dtype=np.float64)
    found: list[tuple[str, _Part]] = []
    for name in filter(is_number, table.column_names):
        usable = has_step & table[name].is_valid().to_numpy()
        values = table[name].to_numpy().astype(np.float64)
        found.append((name, [places[usable], steps[usable], values[usable]]))
    return found


def _parts(
    names: Sequence[str], places: Sequence[int], rows: Sequence[Any]
) -> Iterator[tuple[str, _Part]]:
    """Yield the numbers of rows that have the same names, column by column."""
    values_of = zip(*(rows[place].values() for place in places), strict=True)
    columns = dict(zip(names, values_of, strict=True))
    steps = columns["step"]
    has_steps = _are_numbers(steps)
    for name, values in columns.items():
        chosen: Iterable[Sequence[Any]] = (places, steps, values)
        if not (has_steps and _are_numbers(values)):
            kept = [item for item in zip(*chosen, strict=True) if _are_numbers(item)]
            if not kept:
                continue
            chosen = list(zip(*kept, strict=True))
        yield name, [np.array(items, dtype=np.float64) for items in chosen]


def _are_numbers(values: Iterable[Any]) -> bool:
    return set(map(type, values)) <= {int, float}  # which bool is not


def _row(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
