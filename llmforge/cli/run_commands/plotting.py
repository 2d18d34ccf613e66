"""``forge runs plot``: a metric of several runs in one picture."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, run_or_newest

if TYPE_CHECKING:
    from llmforge.insight.metric_curves import Curve
    from llmforge.rundir import RunDirectory

_LINES = 22
_DOTS_PER_COLUMN = 4

Runs = Annotated[
    list[str] | None,
    options.argument("RUN", "Run ids, or beginnings of them; absent: the newest run."),
]
Metric = Annotated[
    str | None,
    options.option("--metric", metavar="NAME", help="val/loss, else train/loss, when not given."),
]
By = Annotated[
    Literal["step", "tokens", "time"], typer.Option("--by", help="What the curves are over.")
]
Smooth = Annotated[
    int, typer.Option("--smooth", metavar="N", min=0, help="Draw means over N rows.")
]
Save = Annotated[
    Path | None,
    options.option("--save", metavar="FILE", help="Write FILE.png, or one page FILE.html."),
]


def plot(
    runs: Runs = None,
    metric: Metric = None,
    by: By = "step",
    smooth: Smooth = 0,
    logarithmic: Annotated[bool, typer.Option("--log", help="Logarithmic on a terminal.")] = False,
    save: Save = None,
    root: options.Root = None,
) -> None:
    """Draw a metric of one run or several, in the terminal or to a file."""
    from llmforge.errors import UsageError
    from llmforge.insight.metric_curves import LABELS

    if save is not None and save.suffix not in (".png", ".html"):
        raise UsageError(f"{save}: neither a .png nor a .html file")
    wanted: list[str | None] = [*dict.fromkeys(runs or [])]
    directories = [run_or_newest(root, run) for run in wanted or [None]]
    name, curves = _curves(directories, metric, by, smooth)
    title, label = f"{name}, mean of {smooth} rows" if smooth > 1 else name, LABELS[by]
    if save is not None:
        _save(save, curves, title=title, label=label)
        echo(f"{save}: {title} of {', '.join(curves)}")
        return
    from llmforge.insight.downsample import thinned
    from llmforge.insight.terminal_plot import terminal_plot

    width = console().width if console().is_terminal else shutil.get_terminal_size().columns
    few = {key: thinned(curve, most=width * _DOTS_PER_COLUMN) for key, curve in curves.items()}
    echo(
        terminal_plot(
            few, width=width, height=_LINES, title=title, x_label=label, logarithmic=logarithmic
        )
    )


def _curves(
    directories: list[RunDirectory],
    metric: str | None,
    by: Literal["step", "tokens", "time"],
    rows: int,
) -> tuple[str, dict[str, Curve]]:
    """Return the metric that is drawn and the curves of the runs that have it.

    Raises:
        RunError: none has it.
    """
    from llmforge.errors import RunError
    from llmforge.insight.metric_curves import metric_names, read_curve, smooth
    from llmforge.insight.overlay import MOST

    for name in [metric] if metric is not None else ["val/loss", "train/loss"]:
        most = None if rows > 1 else MOST  # a mean needs every value
        curves = {item.id: read_curve(item, name, by=by, most=most) for item in directories}
        missing = [run_id for run_id, curve in curves.items() if not curve[0]]
        if len(missing) < len(curves):
            for run_id in missing:
                echo(f"{run_id} has no {name} by {by}", err=True)
            kept = {key: curve for key, curve in curves.items() if key not in missing}
            return name, {key: smooth(curve, rows=rows) for key, curve in kept.items()}
    known = sorted({name for item in directories for name in metric_names(item)})
    raise RunError(
        f"none of the runs has {metric or 'a loss'} by {by}",
        remedy=f"known metrics: {', '.join(known)}" if known else "nothing was logged yet",
    )


def _save(path: Path, curves: dict[str, Curve], *, title: str, label: str) -> None:
    from llmforge.errors import UsageError
    from llmforge.insight.overlay import as_page, as_picture
    from llmforge.rundir.atomic import write_bytes

    if path.suffix == ".html":
        content = as_page(curves, title=title, x_label=label).encode()
    else:
        content = as_picture(curves, title=title, x_label=label)
    try:
        write_bytes(path, content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
