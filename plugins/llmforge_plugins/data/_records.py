"""Rows of tables and documents: JSON, JSON Lines, CSV, Parquet, each with its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmforge.errors import DataError
from llmforge_plugins.data._compressed import with_suffixes
from llmforge_plugins.data._text_files import read_lines

_TEXT = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_TABLES = (".parquet", ".arrow")
SUFFIXES = (*with_suffixes(_TEXT), *_TABLES)

_LONGEST_FIELD = 1 << 27


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    """Yield (place, row) of a file: ``alpaca.jsonl:17`` where it has lines, else ``…, row 17``.

    A row that cannot be read comes as the error, so that the caller may leave it out.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    kind = next((kind for kind in (*_TEXT, *_TABLES) if kind in path.suffixes), "")
    if kind in (".jsonl", ".ndjson"):
        yield from _json_lines(path)
    elif kind == ".json":
        yield from _json(path)
    elif kind in (".csv", ".tsv"):
        yield from _csv(path, "\t" if kind == ".tsv" else ",")
    elif kind in _TABLES:
        yield from _table(path, kind)
    else:
        raise DataError(
            f"{path}: rows cannot be read from such a file",
            remedy=f"known endings are {', '.join((*_TEXT, *_TABLES))}, compressed or not",
        )


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    for number, line in enumerate(read_lines(path), 1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield place, DataError(f"{place}: not valid JSON: {error}")
            continue
        yield place, _object(row, place)


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    text = "".join(read_lines(path))
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        lines = error.msg == "Extra data"
        raise DataError(
            f"{path}:{error.lineno}: not valid JSON: {error.msg}",
            remedy="a file with one object per line is called .jsonl" if lines else "correct it",
        ) from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None
    if isinstance(content, dict):
        lists = [key for key, value in content.items() if isinstance(value, list)]
        if len(lists) == 1:
            content = content[lists[0]]
    if not isinstance(content, list):
        raise DataError(
            f"{path} is not a list of rows",
            remedy="write [ {…}, {…} ], or one object per line in a file called .jsonl",
        )
    for number, row in enumerate(content, 1):
        place = f"{path}, row {number}"
        yield place, _object(row, place)


def _csv(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.DictReader(read_lines(path), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            place = f"{path}:{reader.line_num}"
            if None in row:
                yield place, DataError(f"{place}: it has more fields than the first line")
            else:
                yield place, {key: "" if value is None else value for key, value in row.items()}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None


def _table(path: Path, kind: str) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        if kind == ".parquet":
            batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        else:
            source = pyarrow.memory_map(str(path))
            batches = iter(pyarrow.ipc.open_stream(source))
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _object(row: Any, place: str) -> dict[str, Any] | DataError:
    if isinstance(row, dict):
        return row
    return DataError(f"{place}: a row must be an object, not {type(row).__name__}")
