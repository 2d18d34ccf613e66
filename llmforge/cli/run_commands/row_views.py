"""Rows of the table of runs: on a terminal, in a pipe, as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from llmforge.cli.render import (
    METRIC_DIGITS,
    STATE_STYLES,
    Column,
    age_text,
    date_text,
    duration_text,
    fitting,
    number,
    perplexity_text,
    plain_value,
    print_table,
    steps_text,
)
from llmforge.insight.summary import iso_time

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]

SHOWN = ["id", "state", "step", "total_steps", "loss", "perplexity", "started", "duration"]
"""Columns of the list; the two of steps are one on the screen."""
WRITTEN = [
    *("id", "name", "state", "step", "total_steps", "loss", "perplexity", "started", "ended"),
    *("duration", "attempt", "profile", "tags", "note", "exit_reason"),
]
"""Columns of a CSV file that nobody chose."""

_TIMES = frozenset({"started", "ended", "created"})
_HEADERS = {"id": "run", "duration": "took"}
_LEFT = frozenset(
    {"id", "name", "state", "profile", "tags", "note", "host", "exit_reason", "directory"}
)
_LONGEST_CELL = 100
"""Characters of a name or a note on a terminal; pipes and files have all of it."""
_JSON_NAMES = {"loss": "best_loss", "duration": "duration_seconds"}
_JSON_ORDER = (
    *("id", "name", "state", "step", "total_steps", "best_loss", "perplexity", "started", "ended"),
    *("duration_seconds", "attempt", "profile", "tags", "note", "exit_reason", "metrics"),
    *("directory", "directory_gone"),
)


def print_rows(console: Console, rows: Sequence[Row], *, chosen: bool = True) -> None:
    """Print rows as a table, with the columns they have.

    Args:
        console: where to.
        rows: the rows.
        chosen: somebody asked for these columns; else the last ones give way on a narrow terminal.
    """
    rows = _steps_joined(rows)
    names = list(rows[0])
    ages = console.is_terminal
    columns = [
        Column(
            _HEADERS.get(name, name),
            right=name not in _LEFT and not _has_text(name, rows),
            fold=name in ("id", "name", "note", "exit_reason", "tags", "directory"),
            styles=STATE_STYLES if name == "state" else {},
        )
        for name in names
    ]
    lines = [[_text(name, row[name], ages=ages) for name in names] for row in rows]
    shown = len(columns) if chosen or not ages else fitting(columns, lines, console.width)
    print_table(console, columns[:shown], [line[:shown] for line in lines])
    if shown < len(columns):
        left_out = ", ".join(column.header for column in columns[shown:])
        console.print(f"too narrow for {left_out}", style="dim")


def as_markdown(rows: Sequence[Row]) -> str:
    """Return rows as a table in Markdown; a bar within a value is escaped."""
    rows = _steps_joined(rows)
    if not rows:
        return "no runs"
    names = list(rows[0])
    right = [name not in _LEFT and not _has_text(name, rows) for name in names]
    return markdown_table(
        [_HEADERS.get(name, name) for name in names],
        [[_text(name, row[name], ages=False) for name in names] for row in rows],
        right=right,
    )


def markdown_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[bool] = ()
) -> str:
    """Return a table in Markdown; ``right`` says which columns are aligned to the right."""
    sides = [*right, *[False] * (len(headers) - len(right))]
    lines = [headers, ["---:" if side else "---" for side in sides], *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def write_csv(rows: Sequence[Row], file: TextIO) -> None:
    """Write rows as CSV with a header: numbers in full, times in ISO 8601, tags joined."""
    writer = csv.writer(file, lineterminator="\n")
    if rows:
        writer.writerow(list(rows[0]))
    for row in rows:
        writer.writerow([_written(name, value) for name, value in row.items()])


def as_json(rows: Sequence[Row], *, whole: bool) -> list[dict[str, Any]]:
    """Return rows as ``--json`` prints them; times in ISO 8601 with the time zone.

    Args:
        rows: the rows.
        whole: they hold every column, not some that were asked for by name.
    """
    dated = [
        {name: iso_time(value) if name in _TIMES else value for name, value in row.items()}
        for row in rows
    ]
    if not whole:
        return dated
    renamed = [{_JSON_NAMES.get(name, name): value for name, value in row.items()} for row in dated]
    return [{name: row[name] for name in _JSON_ORDER} for row in renamed]


def _steps_joined(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows with the two columns of steps as one where both are there."""
    if not rows or not {"step", "total_steps"} <= rows[0].keys():
        return [dict(row) for row in rows]
    return [
        {
            name: steps_text(value, row["total_steps"]) if name == "step" else value
            for name, value in row.items()
            if name != "total_steps"
        }
        for row in rows
    ]


def _text(name: str, value: Any, *, ages: bool) -> str:
    if value is None:
        return ""
    if name in _TIMES:
        return age_text(value) if ages else date_text(value)
    if name == "duration":
        return duration_text(value)
    if name == "perplexity":
        return perplexity_text(value)
    if ages and isinstance(value, str) and len(value) > _LONGEST_CELL:
        return f"{value[: _LONGEST_CELL - 1]}…"
    if isinstance(value, float) and "/" not in name and name not in ("loss", "best_value"):
        return f"{value:.6g}"  # values of a recipe as people write them
    if isinstance(value, float):
        return number(value, digits=METRIC_DIGITS.get(name, 4))
    return plain_value(value)


def _written(name: str, value: Any) -> Any:
    if name in _TIMES:
        return iso_time(value)
    return plain_value(value) if isinstance(value, list | dict | bool) else value


def _has_text(name: str, rows: Sequence[Row]) -> bool:
    return name not in ("step", *_TIMES) and any(
        isinstance(row[name], str | list | dict) for row in rows
    )


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
