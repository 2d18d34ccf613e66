"""Values, tables and sections as people read them, on a terminal and in a pipe."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llmforge.printable import printable_line

if TYPE_CHECKING:
    from rich.console import Console

STATE_STYLES: Mapping[str, str] = {
    "running": "cyan",
    "completed": "green",
    "early-stopped": "green",
    "pruned": "blue",
    "interrupted": "yellow",
    "crashed": "red",
    "failed": "red",
    "unreadable": "magenta",
}
METRIC_DIGITS: Mapping[str, int] = {"epoch": 2, "val/perplexity": 2, "grad_norm": 3}

_DAY = 86400.0
_GAP = 2
_FOLDED = (20, 12, 8)
"""Characters a line has at least of a value that is broken over lines: the first that fits."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        header: its title.
        right: whether values are aligned to the right, as numbers are.
        fold: whether a long value may be broken over lines on a narrow terminal.
        styles: Rich styles by the value's text.
    """

    header: str
    right: bool = False
    fold: bool = False
    styles: Mapping[str, str] = field(default_factory=dict)


def print_table(
    console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, indent: int = 0
) -> None:
    """Print a table: coloured on a terminal, aligned plain text in a pipe.

    On a terminal the header ``val/loss`` takes two lines, which keeps numbers whole.
    """
    rows = [[printable_line(value) for value in row] for row in rows]
    if not console.is_terminal:
        lines = [" " * indent + line for line in _plain_lines(columns, rows)]
        console.out("\n".join(lines), highlight=False)  # a print per row takes seconds
        return
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    least = _least_width(columns, rows, console.width - indent)
    headers = [column.header.replace("/", "\n") for column in columns]
    most = max(header.count("\n") for header in headers)
    for index, (column, header) in enumerate(zip(columns, headers, strict=True)):
        table.add_column(
            "\n" * (most - header.count("\n")) + header,
            justify="right" if column.right else "left",
            no_wrap=not column.fold,
            min_width=_min_width(column, index, rows, least),
            overflow="fold" if column.fold else "ellipsis",
        )
    for row in rows:
        cells = zip(columns, row, strict=True)
        table.add_row(*(Text(value, style=column.styles.get(value, "")) for column, value in cells))
    console.print(Padding(table, (0, 0, 0, indent)) if indent else table)


def fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> int:
    """Return how many of the first columns fit on a terminal, at least two."""
    needed = -_GAP
    for count, column in enumerate(columns):
        needed += _GAP + _width(column, count, rows, _FOLDED[0])
        if needed > width and count >= 2:
            return count
    return len(columns)


def print_section(console: Console, title: str, values: Mapping[str, str]) -> None:
    """Print labelled values under a title; nothing when there are none."""
    if not values:
        return
    from rich.text import Text

    if title:
        console.print()
        console.print(Text(title, style="bold"))
    width = max(map(len, values))
    for label, value in values.items():
        text = Text.assemble((f"  {label:<{width}}  ", "dim"), (value, STATE_STYLES.get(value, "")))
        console.print(text, soft_wrap=True)


def _least_width(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> int | None:
    """Return how wide columns may stay whose values are broken over lines; None: any width."""
    gaps = _GAP * (len(columns) - 1)
    for least in _FOLDED:
        needed = sum(_width(column, place, rows, least) for place, column in enumerate(columns))
        if needed + gaps <= width:
            return least
    return None


def _min_width(
    column: Column, place: int, rows: Sequence[Sequence[str]], least: int | None
) -> int | None:
    """Return how wide a column stays; the first, which says what a row is about, never vanishes."""
    if least is None:
        least = None if place else _FOLDED[-1]
    return _width(column, place, rows, least) if column.fold and least else None


def _width(column: Column, place: int, rows: Sequence[Sequence[str]], least: int) -> int:
    """Return the width of a column on the narrowest terminal that it fits on."""
    longest = max(len(text) for text in (*column.header.split("/"), *(row[place] for row in rows)))
    return min(longest, least) if column.fold else longest


def number(value: object, *, digits: int = 4) -> str:
    """Return a metric's value with ``digits`` decimals, or few significant digits if extreme."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value and math.isfinite(value) and not 1e-2 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:,.{digits}f}"


def perplexity_text(value: float | None) -> str:
    """Return a perplexity with two decimals, fewer when it is large."""
    if value is None:
        return ""
    return number(value, digits=2 if value < 1000 else 0)


def steps_text(step: int | None, total: int | None) -> str:
    """Return how far a run is: steps taken of steps planned."""
    if not total:
        return str(step) if step else ""
    short = total >= 10_000 and total % 1000 == 0
    return f"{step}/{total // 1000}k" if short else f"{step}/{total}"


def duration_text(seconds: float | None) -> str:
    """Return a length of time in its two largest units, for example ``1h 05m``."""
    if seconds is None:
        return ""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < _DAY:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def date_text(moment: float) -> str:
    """Return seconds since the epoch as local date and time; empty for 0."""
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M") if moment else ""


def age_text(moment: float, now: float | None = None) -> str:
    """Return how long ago ``moment`` was, or its date when that is more than a week."""
    seconds = (time.time() if now is None else now) - moment
    if not moment or seconds < 0 or seconds >= 7 * _DAY:
        return date_text(moment)[:10]
    if seconds < 60:
        return f"{seconds:.0f}s ago"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m ago"
    if seconds < _DAY:
        return f"{seconds // 3600:.0f}h ago"
    return f"{seconds // _DAY:.0f}d ago"


def plain_value(value: Any) -> str:
    """Return a recipe value or a recorded fact on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain_value, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _plain_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [[column.header for column in columns], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        [
            value.rjust(width) if column.right else value.ljust(width)
            for column, width, value in zip(columns, widths, line, strict=True)
        ]
        for line in lines
    ]
    return ["  ".join(line).rstrip() for line in aligned]
