"""Curves of a run as files: loss, perplexity, learning rate.

Matplotlib's figures are used directly, without pyplot: no global state, no window system.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.errors import RunError, UsageError
from llmforge.insight.metrics import Row, metric_rows
from llmforge.insight.style import SIZE, STYLE, as_image, as_png, entitle, new_figure
from llmforge.rundir import RunDirectory
from llmforge.rundir.atomic import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRAIN, _VALIDATION, _RATE = "#4477aa", "#cc5533", "#228866"

_LOSSES = ("train/loss", "val/loss")

_SPARSE, _FEW = 12, 60
"""Up to these many points a line gets markers, and is drawn without smoothing."""

FILE_KINDS = ("png", "svg", "pdf")
"""Formats of :func:`save_plot`."""

_HIGHEST_LOSS = 50.0
"""Nats per token; the perplexity of a higher loss says nothing and overflows the axis."""

Points = tuple[list[int], list[float]]


@dataclass(frozen=True)
class _Curve:
    """A picture: its file's name, title, what the vertical axis shows, and how it is drawn.

    ``draw`` returns False when there is nothing to draw, as there is none of ``metrics``.
    """

    name: str
    title: str
    label: str
    draw: Callable[[Axes, Sequence[Row]], bool]
    metrics: tuple[str, ...]


def write_curves(directory: RunDirectory) -> list[Path]:
    """Draw the curves of a run into its ``plots`` folder and return the files written.

    Values that are not finite are left out, and so is a curve without any other.

    Raises:
        RunError: ``metrics.jsonl`` is damaged.
    """
    import matplotlib

    rows = metric_rows(directory.metrics)
    written = []
    with matplotlib.rc_context(STYLE):
        for curve in _CURVES:
            image = _image(curve, rows, run_id=directory.id)
            if image is not None:
                directory.plots.mkdir(parents=True, exist_ok=True)
                path = directory.plots / f"{curve.name}.png"
                write_bytes(path, image, durable=False)
                written.append(path)
    return written


def loss_curve(rows: Sequence[Row], *, title_of: str) -> bytes | None:
    """Return the losses of ``rows`` as a PNG, None when there is none to draw."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return _image(_CURVES[0], rows, run_id=title_of)


def save_plot(rows: Sequence[Row], path: Path, *, of: str, metric: str | None = None) -> None:
    """Write loss and learning rate of ``rows``, or one ``metric``, to ``path``.

    Its ending says the format: ``.png``, ``.svg`` or ``.pdf``. ``of`` says whose rows they are.

    Raises:
        UsageError: it has another ending, or there is nothing to draw.
        RunError: the file cannot be written.
    """
    import matplotlib

    kind = path.suffix.lower().removeprefix(".")
    if kind not in FILE_KINDS:
        raise UsageError(
            f"{path} is no name of a picture", remedy=f"end it in .{', .'.join(FILE_KINDS)}"
        )
    curves = [_CURVES[0], _CURVES[2]] if metric is None else [_curve_of(metric)]
    with matplotlib.rc_context(STYLE):
        image = _stacked(curves, rows, of=of, kind=kind)
    if image is None:
        raise UsageError(f"{of} has no values of {metric or 'a loss'} to draw yet")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, image)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def points(rows: Sequence[Row], name: str) -> Points:
    """Return steps and values of one metric where it has a finite value."""
    found = [
        (int(row["step"]), float(row[name]))
        for row in rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    return [step for step, _ in found], [value for _, value in found]


def smoothed(values: Sequence[float], *, reach: int) -> list[float]:
    """Return the mean of each value and up to ``reach`` neighbours on either side.

    At the beginning, where a loss falls fast, as many are taken after a value as before it, so
    that the line does not lag; at the end what is missing after it is left out.
    """
    sums = [0.0, *accumulate(values)]
    result = []
    for index in range(len(values)):
        near = min(reach, index)
        begin, end = index - near, min(index + near + 1, len(values))
        result.append((sums[end] - sums[begin]) / (end - begin))
    return result


def _stacked(curves: Sequence[_Curve], rows: Sequence[Row], *, of: str, kind: str) -> bytes | None:
    """Return a picture of ``curves`` one below the other, None when none has anything to draw."""
    width, height = SIZE
    known = [item for item in curves if any(points(rows, name)[0] for name in item.metrics)]
    if not known:
        return None
    figure = new_figure(size=(width, height * (1 + 0.6 * (len(known) - 1))))
    heights = [1.0] + [0.6] * (len(known) - 1)
    every = figure.subplots(len(known), squeeze=False, height_ratios=heights)[:, 0]
    for axes, curve in zip(every, known, strict=True):
        curve.draw(axes, rows)
        entitle(axes, curve.title, of=of if curve is known[0] else "")
        axes.set_ylabel(curve.label)
        _step_axis(axes)
    return as_image(figure, kind)


def _curve_of(metric: str) -> _Curve:
    def draw(axes: Axes, rows: Sequence[Row]) -> bool:
        steps, values = points(rows, metric)
        axes.plot(steps, values, color=_TRAIN, marker=_marker(steps))
        return bool(steps)

    return _Curve(metric, metric, metric, draw, (metric,))


def _image(curve: _Curve, rows: Sequence[Row], *, run_id: str) -> bytes | None:
    """Return the PNG of a curve, or None when there is nothing to draw."""
    figure = new_figure()
    axes = figure.add_subplot()
    if not curve.draw(axes, rows):
        return None
    entitle(axes, curve.title, of=run_id)
    axes.set_ylabel(curve.label)
    _step_axis(axes)
    return as_png(figure)


def _step_axis(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter

    long = axes.get_xlim()[1] > 100_000
    axes.set_xlabel("optimizer step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep="") if long else StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(length=0, which="both")


def _loss(axes: Axes, rows: Sequence[Row]) -> bool:
    train, validation = points(rows, "train/loss"), points(rows, "val/loss")
    return _draw(axes, train, validation, digits=4)


def _perplexity(axes: Axes, rows: Sequence[Row]) -> bool:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    train, validation = (_bounded(points(rows, name)) for name in ("train/loss", "val/loss"))
    axes.set_yscale("log")
    if not _draw(axes, train, validation, digits=2, scale=math.exp):
        return False
    low, high = axes.get_ylim()
    marks = (1, 2, 5) if high / low < 1e4 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=marks, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return True


def _learning_rate(axes: Axes, rows: Sequence[Row]) -> bool:
    from matplotlib.ticker import FuncFormatter

    steps, rates = points(rows, "lr")
    if not steps:
        return False
    axes.plot(steps, rates, color=_RATE, marker=_marker(steps))
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1e}" if value else "0"))
    return True


def _draw(
    axes: Axes,
    train: Points,
    validation: Points,
    *,
    digits: int,
    scale: Callable[[float], float] = float,
) -> bool:
    """Draw losses, each value put through ``scale`` after smoothing."""
    if train[0]:
        _draw_training(axes, train, scale)
    if validation[0]:
        _draw_validation(axes, validation, scale, digits=digits)
    if not train[0] and not validation[0]:
        return False
    axes.legend(loc="upper right")
    return True


def _draw_training(axes: Axes, train: Points, scale: Callable[[float], float]) -> None:
    steps, values = train
    raw = [scale(value) for value in values]
    if len(steps) <= _FEW:
        axes.plot(steps, raw, color=_TRAIN, label="training", marker=_marker(steps))
        return
    line = [scale(value) for value in smoothed(values, reach=max(2, len(values) // 50))]
    axes.plot(steps, raw, color=_TRAIN, alpha=0.25, linewidth=1.0)
    axes.plot(steps, line, color=_TRAIN, label="training, smoothed")


def _draw_validation(
    axes: Axes, validation: Points, scale: Callable[[float], float], *, digits: int
) -> None:
    steps, values = validation[0], [scale(value) for value in validation[1]]
    marker = "." if len(steps) <= _FEW else ""
    axes.plot(steps, values, color=_VALIDATION, label="validation", marker=marker)
    lowest = min(range(len(values)), key=values.__getitem__)
    axes.plot(
        steps[lowest],
        values[lowest],
        linestyle="",
        marker="o",
        markersize=9,
        markerfacecolor="none",
        markeredgecolor=_VALIDATION,
        markeredgewidth=1.6,
        label=f"best: {values[lowest]:,.{digits}f} at step {steps[lowest]:,}",
    )


def _bounded(losses: Points) -> Points:
    kept = [pair for pair in zip(*losses, strict=True) if pair[1] < _HIGHEST_LOSS]
    return [step for step, _ in kept], [value for _, value in kept]


def _marker(steps: Sequence[int]) -> str:
    if len(steps) == 1:
        return "o"
    return "." if len(steps) <= _SPARSE else ""


_CURVES = (
    _Curve("loss", "Loss", "cross-entropy, nats per token", _loss, _LOSSES),
    _Curve("perplexity", "Perplexity", "perplexity, log scale", _perplexity, _LOSSES),
    _Curve("learning_rate", "Learning rate", "learning rate", _learning_rate, ("lr",)),
)
