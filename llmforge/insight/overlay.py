"""Curves of several runs in one picture: a PNG, or a page that needs nothing else."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib.resources import files

from llmforge.insight.downsample import Points, thinned

MOST = 4000
"""Points of a curve in a file: more than any screen shows."""


def as_page(series: Mapping[str, Points], *, title: str, x_label: str) -> str:
    """Return a page of HTML with the curves in it: no script or font from elsewhere.

    Args:
        series: the curves by the name that the legend has for them.
        title: what they show.
        x_label: what the horizontal axis shows.
    """
    curves = [
        {"name": name, "x": list(xs), "y": [float(f"{value:.7g}") for value in ys]}
        for name, (xs, ys) in _thin(series).items()
    ]
    body = json.dumps({"x_label": x_label, "series": curves}).replace("<", "\\u003c")
    page = files("llmforge.insight").joinpath("curve_page.html").read_text(encoding="utf-8")
    return page.replace("TITLE", html.escape(title)).replace("DATA", body, 1)


def as_picture(series: Mapping[str, Points], *, title: str, x_label: str) -> bytes:
    """Return a PNG with the curves in it; see :func:`as_page`."""
    import matplotlib

    from llmforge.insight.style import STYLE, as_png, new_figure

    with matplotlib.rc_context(STYLE):
        figure = new_figure()
        axes = figure.add_subplot()
        for name, (xs, ys) in _thin(series).items():
            axes.plot(xs, ys, label=name, marker="." if len(xs) <= 12 else "", linewidth=1.4)
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10)
        axes.set_xlabel(x_label)
        axes.tick_params(length=0, which="both")
        axes.legend(loc="best", fontsize=8)
        return as_png(figure)


def _thin(series: Mapping[str, Points]) -> dict[str, Points]:
    return {name: thinned(points, most=MOST) for name, points in series.items()}
