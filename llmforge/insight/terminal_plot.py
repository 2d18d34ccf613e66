"""Curves as text, for a terminal or a file: braille dots, round numbers at the axes.

Own code, as the libraries there are do not fit: plotext draws on one global figure and changed its
interface in version 6, plotille has neither a logarithmic axis nor round numbers at its axes. The
dots of a character are those of Unicode's block of Braille Patterns (U+2800 to U+28FF).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

Points = tuple[Sequence[float], Sequence[float]]
"""Where the points of a series are on the horizontal axis, and their values."""

SMALLEST = (24, 8)
"""Fewest columns and lines of a picture; a smaller one is drawn at this size."""

_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a character, by row and column."""
_MARKS = "●×+◇△□"
_STYLES = ("cyan", "yellow", "green", "magenta", "red", "blue")
_SPARSE = 30
"""Up to these many points a series has a mark at each."""


def terminal_plot(
    series: Mapping[str, Points],
    *,
    width: int,
    height: int,
    title: str,
    x_label: str,
    logarithmic: bool = False,
) -> str:
    """Return a picture of ``series`` as plain text; :func:`styled_plot` has colours.

    The first series is a line. So are the others, but of marks, which tell them apart without
    colours. Where there are more points than the terminal has dots, a dot is at their mean.

    Args:
        series: points by the name that the legend has for them, in any number; those that are not
            finite, and with ``logarithmic`` not above zero, are left out.
        width: columns of the whole picture.
        height: lines of the whole picture, all labels included.
        title: the first line.
        x_label: what the horizontal axis shows.
        logarithmic: whether the vertical axis is.
    """
    picture = _Picture(series, width, height, logarithmic=logarithmic, plain=True)
    lines = ["".join(text for text, _ in line) for line in picture.lines(title, x_label)]
    return "\n".join(line.rstrip() for line in lines)


def styled_plot(
    series: Mapping[str, Points],
    *,
    width: int,
    height: int,
    title: str,
    x_label: str,
    logarithmic: bool = False,
) -> Text:
    """Return what :func:`terminal_plot` does for a terminal with colours, one for each series."""
    from rich.text import Text

    picture = _Picture(series, width, height, logarithmic=logarithmic, plain=False)
    return Text("\n").join(Text.assemble(*line) for line in picture.lines(title, x_label))


_Spans = list[tuple[str, str]]
"""A line as texts with their styles."""


@dataclass(frozen=True)
class _Axis:
    """From values to dots: ``low`` is at dot 0, ``high`` at dot ``last``.

    ``ticks`` are round values between them; without any the axis is logarithmic and too short.
    """

    low: float
    high: float
    last: int
    ticks: Sequence[float]
    logarithmic: bool = False

    @classmethod
    def of_steps(cls, low: float, high: float, last: int, *, ticks: int, whole: bool) -> _Axis:
        """Return a horizontal axis with about so many ``ticks``, on ``whole`` numbers only."""
        if low == high:
            low, high = low - 1, high + 1
        step = _round_step((high - low) / ticks)
        step = max(1.0, step) if whole else step
        numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        return cls(low, high, last, [number * step for number in numbers])

    @classmethod
    def of_values(cls, low: float, high: float, last: int, *, ticks: int) -> _Axis:
        """Return a vertical axis extended to round values, about so many."""
        if low == high:
            room = abs(low) * 0.05 or 1.0
            low, high = low - room, high + room
        step = _round_step((high - low) / ticks)
        first, final = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        values = [number * step for number in range(first, final + 1)]
        return cls(values[0], values[-1], last, values)

    @classmethod
    def of_magnitudes(cls, low: float, high: float, last: int, *, ticks: int) -> _Axis:
        """Return a logarithmic axis with at most so many ``ticks``."""
        if low == high:
            low, high = low / 2, high * 2
        return cls(low, high, last, _magnitudes(low, high, ticks), logarithmic=True)

    def dot(self, value: float) -> int:
        """Return the dot that is nearest to ``value``."""
        low, high, at = (
            math.log10(item) if self.logarithmic else item for item in (self.low, self.high, value)
        )
        return round((at - low) / (high - low) * self.last)


@dataclass
class _Canvas:
    """Characters with dots in them, and marks over them; each has the number of its series."""

    width: int
    height: int
    _dots: dict[tuple[int, int], int] = field(default_factory=dict)
    _owner: dict[tuple[int, int], int] = field(default_factory=dict)
    _marks: dict[tuple[int, int], str] = field(default_factory=dict)

    def dot(self, x: int, y: int, owner: int) -> None:
        """Set the dot ``x`` from the left and ``y`` from the bottom."""
        row, inner = divmod(self.height * 4 - 1 - y, 4)
        cell = (row, x // 2)
        self._dots[cell] = self._dots.get(cell, 0) | _DOTS[inner][x % 2]
        self._owner[cell] = owner

    def mark(self, x: int, y: int, owner: int, mark: str) -> None:
        """Write ``mark`` where the dot would be."""
        cell = ((self.height * 4 - 1 - y) // 4, x // 2)
        self._marks[cell] = mark
        self._owner[cell] = owner

    def line(self, start: tuple[int, int], end: tuple[int, int], owner: int) -> None:
        """Set the dots from ``start`` to ``end``."""
        (x, y), (to_x, to_y) = start, end
        count = max(abs(to_x - x), abs(to_y - y), 1)
        for index in range(count + 1):
            share = index / count
            self.dot(round(x + (to_x - x) * share), round(y + (to_y - y) * share), owner)

    def row(self, row: int) -> _Spans:
        """Return a line of it, a span per character."""
        return [self._cell((row, column)) for column in range(self.width)]

    def _cell(self, cell: tuple[int, int]) -> tuple[str, str]:
        if cell not in self._owner:
            return " ", ""
        text = self._marks.get(cell) or chr(_BRAILLE | self._dots[cell])
        return text, _STYLES[self._owner[cell] % len(_STYLES)]


class _Picture:
    """All series on their axes; see :func:`terminal_plot` for the arguments.

    ``plain``: series are told apart by marks, not by colours.
    """

    def __init__(
        self,
        series: Mapping[str, Points],
        width: int,
        height: int,
        *,
        logarithmic: bool,
        plain: bool,
    ) -> None:
        self._series = {
            name: usable
            for name, points in series.items()
            if (usable := _usable(points, logarithmic=logarithmic))
        }
        self._drawn = {name: _thinned(item, width * 2) for name, item in self._series.items()}
        self._plain = plain
        self._logarithmic = logarithmic
        self._width = max(width, SMALLEST[0])
        self._rows = max(height, SMALLEST[1]) - 4 - (len(self._series) > 1)

    def lines(self, title: str, x_label: str) -> Iterator[_Spans]:
        """Yield the lines from top to bottom."""
        yield [(title, "bold")]
        if not self._series:
            yield [("no values to show", "")]
            return
        vertical = self._vertical()
        labels = self._labels(vertical)
        margin = max(map(len, labels.values()), default=0)
        columns = self._width - margin - 2
        horizontal = self._horizontal(columns)
        canvas = _Canvas(columns, self._rows)
        for owner, name in enumerate(self._series):
            dots = [(horizontal.dot(x), vertical.dot(y)) for x, y in self._drawn[name]]
            self._draw(canvas, dots, owner, sparse=len(self._series[name]) <= _SPARSE)
        for row in range(self._rows):
            edge = f"{labels.get(row, ''):>{margin}} {'┤' if row in labels else '│'}"
            yield [(edge, "dim"), *canvas.row(row)]
        yield from _below(horizontal, x_label, margin=margin)
        if len(self._series) > 1:
            yield self._legend(margin)

    def _horizontal(self, columns: int) -> _Axis:
        places = [x for points in self._series.values() for x in (points[0][0], points[-1][0])]
        whole = all(x.is_integer() for x in places)
        ticks, last = max(2, columns // 12), columns * 2 - 1
        return _Axis.of_steps(min(places), max(places), last, ticks=ticks, whole=whole)

    def _vertical(self) -> _Axis:
        # The range is that of what is drawn: means of many points reach less far than the points.
        values = [y for points in self._drawn.values() for _, y in points]
        make = _Axis.of_magnitudes if self._logarithmic else _Axis.of_values
        return make(min(values), max(values), self._rows * 4 - 1, ticks=max(1, self._rows // 3))

    def _labels(self, vertical: _Axis) -> dict[int, str]:
        """Return the label of each line that has one."""
        rows = [(self._rows * 4 - 1 - vertical.dot(tick)) // 4 for tick in vertical.ticks]
        return dict(zip(rows, _texts(vertical), strict=True))

    def _draw(
        self, canvas: _Canvas, dots: Sequence[tuple[int, int]], owner: int, *, sparse: bool
    ) -> None:
        by_marks = self._plain and owner > 0
        if not by_marks:
            for start, end in pairwise(dots):
                canvas.line(start, end, owner)
        if by_marks or len(dots) == 1 or (sparse and owner > 0):
            for x, y in dots:
                canvas.mark(x, y, owner, _MARKS[owner % len(_MARKS)])

    def _legend(self, margin: int) -> _Spans:
        spans: _Spans = [(" " * (margin + 2), "")]
        for owner, (name, points) in enumerate(self._series.items()):
            line = "⠤⠤" if owner == 0 and len(points) > 1 else _MARKS[owner % len(_MARKS)]
            if not self._plain and len(points) > _SPARSE:
                line = "⠤⠤"
            spans += [(line, _STYLES[owner % len(_STYLES)]), (f" {name}   ", "")]
        return spans


def _usable(points: Points, *, logarithmic: bool) -> list[tuple[float, float]]:
    kept = [
        (float(x), float(y))
        for x, y in zip(*points, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not logarithmic)
    ]
    return sorted(kept, key=lambda point: point[0])


def _thinned(points: Sequence[tuple[float, float]], dots: int) -> list[tuple[float, float]]:
    """Return at most ``dots`` points, each the mean of those near it."""
    if len(points) <= dots:
        return list(points)
    left, size = points[0][0], (points[-1][0] - points[0][0]) / dots or 1.0
    groups = groupby(points, key=lambda point: min(dots - 1, int((point[0] - left) / size)))
    found = []
    for _, group in groups:
        xs, ys = zip(*group, strict=True)
        found.append((sum(xs) / len(xs), sum(ys) / len(ys)))
    return found


def _below(axis: _Axis, label: str, *, margin: int) -> Iterator[_Spans]:
    """Yield the horizontal axis: its line with ticks, their values, and what it shows."""
    columns = (axis.last + 1) // 2
    edge, numbers = ["─"] * columns, [" "] * columns
    for tick, text in zip(axis.ticks, _texts(axis), strict=True):
        column = axis.dot(tick) // 2
        begin = min(max(0, column - len(text) // 2), columns - len(text))
        if begin >= 0 and not "".join(numbers[max(0, begin - 1) : begin + len(text) + 1]).strip():
            edge[column] = "┬"
            numbers[begin : begin + len(text)] = text
    space = " " * (margin + 1)
    yield [(f"{space}└{''.join(edge)}", "dim")]
    yield [(f"{space} {''.join(numbers)}", "dim")]
    yield [(f"{space} {label:^{columns}}", "dim")]


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _magnitudes(low: float, high: float, most: int) -> list[float]:
    """Return at most ``most`` values: powers of ten, and what is between them if they are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1,)):
        found = [factor * 10.0**power for power in decades for factor in factors]
        found = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) <= most:
            return found or [low, high]
    return found[:: -(-len(found) // most)]


def _texts(axis: _Axis) -> list[str]:
    """Return the ticks of an axis with as many digits as tell them apart."""
    if axis.logarithmic:
        return [f"{tick:,.5g}" if 1e-3 <= tick < 1e5 else f"{tick:.3g}" for tick in axis.ticks]
    largest = max(map(abs, axis.ticks))
    step = min((after - before for before, after in pairwise(axis.ticks)), default=largest or 1.0)
    size = math.floor(math.log10(step) + 1e-9)
    if 1e-3 <= largest < 1e6 or not largest:
        return [
            f"{tick if abs(tick) > step / 2 else 0.0:,.{max(0, -size)}f}" for tick in axis.ticks
        ]
    digits = max(0, math.floor(math.log10(largest)) - size)
    return [f"{tick:.{digits}e}" if abs(tick) > step / 2 else "0" for tick in axis.ticks]
