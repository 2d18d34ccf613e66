"""How llmforge's pictures look, and how a figure becomes a PNG without a window system."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#222222", "#666666", "#e4e4e4"
SIZE, DPI = (7.2, 4.2), 150

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}
"""For ``matplotlib.rc_context``."""

_LONGEST_TITLE = 72


def new_figure(*, size: tuple[float, float] = SIZE) -> Figure:
    """Return an empty figure, ``size`` in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def entitle(axes: Axes, title: str, *, of: str) -> None:
    """Write what a picture shows on its left, and of which run or sweep on its right."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10)
    axes.set_title(_elided(of), loc="right", fontsize=8, color=MUTED, pad=10)


def as_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file, the same bytes every time."""
    return as_image(figure, "png")


def as_image(figure: Figure, kind: str) -> bytes:
    """Return a figure as the content of a ``png``, ``svg`` or ``pdf`` file, the same every time."""
    import matplotlib

    unsaid = {"png": ("Software",), "svg": ("Date",), "pdf": ("CreationDate",)}
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "llmforge"}):
        figure.savefig(buffer, format=kind, metadata=dict.fromkeys(unsaid[kind]))
    return buffer.getvalue()


def _elided(text: str) -> str:
    if len(text) <= _LONGEST_TITLE:
        return text
    half = _LONGEST_TITLE // 2
    return f"{text[:half]}…{text[-half:]}"
