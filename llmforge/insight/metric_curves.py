"""One metric of a run as a curve, by step, tokens or time; fast for a million rows.

The rows are not parsed: a file is cut at the metric's name, and only the numbers beside it are
read. Rows are written by llmforge: a JSON object per line that begins with step and tokens.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

from llmforge.errors import RunError
from llmforge.insight.downsample import thinned
from llmforge.rundir import RunDirectory

By = Literal["step", "tokens", "time"]
Curve = tuple[list[float], list[float]]

LABELS: dict[By, str] = {"step": "optimizer step", "tokens": "tokens seen", "time": "hours"}
_BLOCK = 1 << 23
_NUMBER_END = re.compile(rb"[,}\s]")


def read_curve(
    directory: RunDirectory, metric: str, *, by: By = "step", most: int | None = None
) -> Curve:
    """Return where a run logged a metric and the values, those that are not finite left out.

    Args:
        directory: the run.
        metric: its name, of ``metrics.jsonl`` or ``timing.jsonl``.
        by: what the curve is over: optimizer steps, tokens, or hours since the first row.
        most: about how many points to return of more, the extremes among them; None for all.

    Raises:
        RunError: a row is damaged.
    """
    if by == "tokens":
        return _finite(*_numbers(directory.metrics, "tokens_seen", metric, most=most))
    steps, values = _numbers(directory.metrics, "step", metric, most=most)
    if not steps:
        steps, values = _numbers(directory.timing, "step", metric, most=most)
    if by == "step":
        return _finite(steps, values)
    places, moments = _numbers(directory.timing, "step", "time")
    if not places:
        return [], []
    near = (moments[max(0, bisect_right(places, step) - 1)] for step in steps)
    return _finite([(moment - moments[0]) / 3600 for moment in near], values)


def metric_names(directory: RunDirectory) -> list[str]:
    """Return the metrics that the last rows of a run have."""
    from llmforge.rundir.last_row import last_row

    rows = last_row(directory.metrics) | last_row(directory.timing)
    return [name for name in rows if name not in ("step", "time")]


def smooth(curve: Curve, *, rows: int) -> Curve:
    """Return a curve with each value the mean of itself and up to ``rows`` neighbours around it."""
    xs, ys = curve
    sums = [0.0, *accumulate(ys)]
    result = []
    for place in range(len(ys)):
        near = min(rows // 2, place, len(ys) - 1 - place)
        begin, end = place - near, place + near + 1
        result.append((sums[end] - sums[begin]) / (end - begin))
    return xs, result


def _numbers(path: Path, first: str, second: str, *, most: int | None = None) -> Curve:
    """Return the numbers of two keys in the rows that have both, ``first`` before ``second``.

    With ``most``, about that many: the extremes of ``second`` in stretches of the file.
    """
    begin, key = f'"{first}": '.encode(), f'"{second}": '.encode()
    xs: list[float] = []
    ys: list[float] = []
    share = None if most is None else max(4, most * _BLOCK // max(1, _size(path)))
    for block in _blocks(path):
        parts = block.split(key)
        try:
            values = _values(parts)
            places: Sequence[float] = range(len(values))
            if share is not None:
                places, values = thinned((places, values), most=share)
            for place, value in zip(places, values, strict=True):
                before = parts[int(place)]
                start = before.rfind(begin)
                if start > before.rfind(b"\n"):
                    xs.append(float(before[start + len(begin) : before.find(b",", start)]))
                    ys.append(value)
        except ValueError as error:
            raise RunError(
                f"{path} has a damaged row: {error}", remedy="correct that line or remove it"
            ) from error
    return xs, ys


def _values(parts: Sequence[bytes]) -> Sequence[float]:
    """Return the numbers with which all parts but the first begin."""
    try:
        return [float(part[: part.index(b",")]) for part in parts[1:]]
    except ValueError:  # it ends a row somewhere
        return [float(_NUMBER_END.split(part[:40], maxsplit=1)[0]) for part in parts[1:]]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield a file in blocks of whole lines; a last line that is cut off is left out."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    rest = b""
    with file:
        while block := file.read(_BLOCK):
            whole, line_break, after = (rest + block).rpartition(b"\n")
            rest = after if line_break else rest + block
            if line_break:
                yield whole + line_break


def _finite(xs: list[float], ys: list[float]) -> Curve:
    if all(map(math.isfinite, ys)):
        return xs, ys
    kept = [place for place, value in enumerate(ys) if math.isfinite(value)]
    return [xs[place] for place in kept], [ys[place] for place in kept]
