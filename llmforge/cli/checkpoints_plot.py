"""``forge checkpoints plot``: the curves of a run, in the terminal or as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, run_or_newest, run_root

if TYPE_CHECKING:
    from llmforge.insight.metrics import Row

_HEIGHT, _LOW = 20, 12
_WIDEST = 120
_IN_A_PIPE = 100


def plot(
    run: Annotated[
        str | None,
        options.argument(
            "RUN_OR_CHECKPOINT",
            "A run, or RUN@STEP for its curves up to there; absent: the newest run.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        options.option(
            "--metric", metavar="NAME", help="This one instead of loss and learning rate."
        ),
    ] = None,
    save: Annotated[
        Path | None,
        options.option(
            "--save", metavar="FILE", help="Write a picture to FILE.png, .svg or .pdf instead."
        ),
    ] = None,
    logarithmic: Annotated[
        bool, typer.Option("--log", help="A logarithmic axis of values, in the terminal.")
    ] = False,
    root: options.Root = None,
) -> None:
    """Draw the training and validation loss of a run, and its learning rate."""
    name, rows = _rows(run, root)
    if not rows:
        echo(f"{name} has no metrics yet", err=True)
        return
    if metric is not None:
        _require_metric(rows, metric, of=name)
    if save is None:
        _draw(rows, of=name, metric=metric, logarithmic=logarithmic)
        return
    from llmforge.insight.plots import save_plot

    save_plot(rows, save, of=name, metric=metric)
    echo(save)


def _rows(address: str | None, root: Path | None) -> tuple[str, Sequence[Row]]:
    """Return what the rows are of, and the rows: of a whole run, or up to a checkpoint."""
    from llmforge.checkpoint.manifest import MANIFEST
    from llmforge.insight.metrics import metric_rows

    if address is None or ("@" not in address and not (Path(address) / MANIFEST).exists()):
        directory = run_or_newest(root, address)
        return directory.id, metric_rows(directory.metrics)
    from llmforge.generation import locate
    from llmforge.insight.checkpoint_facts import entry_with, known_rows

    checkpoint = locate(address, root=run_root(root))
    entry = entry_with(checkpoint)
    name = entry.directory.id if entry else checkpoint.path.name
    return f"{name} up to step {checkpoint.step:,}", known_rows(
        checkpoint, most=checkpoint.step + 1
    )


def _require_metric(rows: Sequence[Row], metric: str, *, of: str) -> None:
    from llmforge.errors import UsageError
    from llmforge.insight.metrics import columns
    from llmforge.options import closest

    known = [name for name in columns(rows) if name != "step"]
    if metric in known:
        return
    near = closest(metric, known)
    raise UsageError(
        f"{of} has no metric '{metric}'",
        remedy=f"did you mean '{near}'?" if near else f"there are {', '.join(known)}",
    )


def _draw(rows: Sequence[Row], *, of: str, metric: str | None, logarithmic: bool) -> None:
    pictures: tuple[tuple[str, tuple[str, ...], int], ...] = (
        ("Loss", ("train/loss", "val/loss"), _HEIGHT),
        ("Learning rate", ("lr",), _LOW),
    )
    if metric is not None:
        pictures = ((metric, (metric,), _HEIGHT),)
    from llmforge.insight.plots import points

    for number, (title, names, height) in enumerate(pictures):
        series = {name: found for name in names if (found := points(rows, name))[0]}
        if not series and number:
            continue
        if number:
            echo()
        _print(series, f"{title}  {of}", height, logarithmic=logarithmic and number == 0)


def _print(
    series: dict[str, tuple[list[int], list[float]]], title: str, height: int, *, logarithmic: bool
) -> None:
    from llmforge.insight.terminal_plot import styled_plot, terminal_plot

    out = console()
    coloured = out.is_terminal and not out.no_color
    picture = (styled_plot if coloured else terminal_plot)(
        series,
        width=min(out.width, _WIDEST if out.is_terminal else _IN_A_PIPE),
        height=height,
        title=title,
        x_label="optimizer step",
        logarithmic=logarithmic,
    )
    if isinstance(picture, str):
        out.out(picture, highlight=False)
    else:
        out.print(picture)
