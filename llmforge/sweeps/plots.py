"""Pictures of a sweep: its history, its trials' curves, what mattered, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.insight.style import INK, MUTED, STYLE, as_png, entitle, new_figure
from llmforge.interfaces import Dimension, Point, Space
from llmforge.rundir.atomic import write_bytes
from llmforge.sweeps.memory_study import importances
from llmforge.sweeps.trials import Trial, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DONE, _BEST, _PRUNED, _FAILED = "#4477aa", "#cc5533", "#bbbbbb", "#aa3355"
_COLOURS = "viridis"
_MOST_TICKS = 8


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What the pictures of one sweep are made of."""

    sweep_id: str
    metric: str
    direction: str
    space: Space
    trials: Sequence[Trial]

    @property
    def points(self) -> list[Point]:
        """The points that are in the space."""
        return points(self.trials, self.space)

    @property
    def done(self) -> list[Point]:
        """The completed points, the worst first, so that the best is drawn on top."""
        known = [item for item in self.points if item.value is not None]
        sign = 1 if self.direction == "minimize" else -1
        return sorted(known, key=lambda item: (-sign * (item.value or 0.0), -item.number))


def write_plots(drawing: Drawing, folder: Path) -> list[Path]:
    """Draw the pictures for which there are enough trials; return the files."""
    import matplotlib

    written = []
    with matplotlib.rc_context(STYLE):
        for name, (title, draw) in _PICTURES.items():
            figure = new_figure()
            axes = figure.add_subplot()
            if not draw(axes, drawing):
                continue
            entitle(axes, title, of=drawing.sweep_id)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.png"
            write_bytes(path, as_png(figure), durable=False)
            written.append(path)
    return written


def _history(axes: Axes, drawing: Drawing) -> bool:
    from matplotlib.ticker import MaxNLocator

    done = sorted(drawing.done, key=lambda item: item.number)
    if not done:
        return False
    best_of = min if drawing.direction == "minimize" else max
    numbers = [item.number for item in done]
    values = [item.value or 0.0 for item in done]
    so_far = [best_of(values[: index + 1]) for index in range(len(values))]
    pruned = [item for item in drawing.points if item.state == "pruned" and item.curve]
    axes.plot(
        [item.number for item in pruned],
        [item.curve[max(item.curve)] for item in pruned],
        linestyle="",
        marker="x",
        color=_PRUNED,
        label="pruned, at its last step",
    )
    axes.plot(numbers, values, linestyle="", marker="o", color=_DONE, label="completed")
    axes.step(numbers, so_far, where="post", color=_BEST, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(drawing.metric)
    axes.tick_params(length=0, which="both")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True))
    axes.legend(loc="upper right" if drawing.direction == "minimize" else "lower right")
    return True


def _curves(axes: Axes, drawing: Drawing) -> bool:
    own = [trial for trial in drawing.trials if drawing.space.contains(trial.parameters)]
    shown = [trial for trial in own if len(trial.curve) > 1]
    if not shown:
        return False
    best = drawing.done[-1].number if drawing.done else None
    styles: Mapping[str, Any] = {
        "completed": {"color": _DONE, "label": "completed"},
        "pruned": {"color": _PRUNED, "label": "pruned"},
        "failed": {"color": _FAILED, "label": "failed"},
    }
    for trial in sorted(shown, key=lambda item: (item.number == best, item.state == "completed")):
        style = dict(styles.get(trial.state, {"color": MUTED, "label": "running"}))
        if trial.number == best:
            style |= {"color": _BEST, "label": f"best: trial {best}", "zorder": 3}
        steps = list(trial.curve)
        axes.plot(steps, [trial.curve[step] for step in steps], marker=".", alpha=0.85, **style)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(drawing.metric)
    axes.tick_params(length=0, which="both")
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once.keys(), loc="best")
    return True


def _importance(axes: Axes, drawing: Drawing) -> bool:
    found = importances(drawing.points, drawing.space, direction=drawing.direction)
    if not found:
        return False
    names = list(reversed(found))
    bars = axes.barh(names, [found[name] for name in names], color=_DONE, height=0.6)
    axes.bar_label(bars, fmt="{:.0%}", padding=4, color=INK)
    axes.set_xlim(0, max(found.values()) * 1.15)
    axes.set_xlabel("share of the difference between trials that the key explains")
    axes.grid(visible=False, axis="y")
    axes.tick_params(length=0, which="both")
    return True


def _parallel(axes: Axes, drawing: Drawing) -> bool:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    done = drawing.done
    if len(done) < 2 or len(drawing.space.dimensions) < 2:
        return False
    scales = [_scale(dimension) for dimension in drawing.space.dimensions]
    values = [item.value or 0.0 for item in done]
    norm = Normalize(min(values), max(values))
    colours = colormaps[_COLOURS if drawing.direction == "minimize" else f"{_COLOURS}_r"]
    for point, value in zip(done, values, strict=True):
        heights = [scale(point.parameters.get(scale.key)) for scale in scales]
        best = point is done[-1]
        axes.plot(
            range(len(scales)),
            heights,
            color=_BEST if best else colours(norm(value)),
            linewidth=2.6 if best else 1.2,
            alpha=1.0 if best else 0.75,
            marker="o",
            markersize=3,
        )
    for index, scale in enumerate(scales):
        axes.axvline(index, color=MUTED, linewidth=0.8)
        for text, height in scale.ticks:
            axes.annotate(
                text,
                (index, height),
                (5, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
    axes.set_xticks(range(len(scales)), [scale.key for scale in scales], fontsize=8)
    axes.set_xlim(-0.1, len(scales) - 0.6)
    axes.set_ylim(-0.05, 1.05)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.tick_params(length=0, which="both")
    axes.spines["left"].set_visible(False)
    bar = ScalarMappable(norm, colours)
    axes.figure.colorbar(bar, ax=axes, label=f"{drawing.metric}; the best in orange", pad=0.02)
    return True


@dataclass(frozen=True)
class _Scale:
    """Where a key's values are on its axis, from 0 to 1."""

    key: str
    place: Callable[[Any], float]
    ticks: list[tuple[str, float]]

    def __call__(self, value: Any) -> float:
        return math.nan if value is None else self.place(value)


def _scale(dimension: Dimension) -> _Scale:
    if dimension.kind == "choice":
        choices = list(dimension.choices)
        if all(isinstance(item, int | float) for item in choices):
            choices.sort()
        reach = max(len(choices) - 1, 1)
        places = {repr(item): index / reach for index, item in enumerate(choices)}
        ticks = [(f"{item}", places[repr(item)]) for item in choices]
        return _Scale(dimension.key, lambda value: places[repr(value)], ticks[:_MOST_TICKS])
    low, high = dimension.low, dimension.high
    warp: Callable[[float], float] = math.log if dimension.log else float
    span = warp(high) - warp(low)

    def place(value: float) -> float:
        return (warp(value) - warp(low)) / span

    return _Scale(dimension.key, place, [(f"{low:g}", 0.0), (f"{high:g}", 1.0)])


_PICTURES: Mapping[str, tuple[str, Callable[[Axes, Drawing], bool]]] = {
    "history": ("History", _history),
    "curves": ("Trials while they ran", _curves),
    "importance": ("What mattered", _importance),
    "parallel": ("Parallel coordinates", _parallel),
}
