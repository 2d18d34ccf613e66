"""``forge runs show``, ``status``, ``metrics`` and ``path``: looking at one run."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmforge.cli import options
from llmforge.cli.common import (
    console,
    echo,
    emit_json,
    entry_or_newest,
    run_or_newest,
    run_root,
)

if TYPE_CHECKING:
    from llmforge.insight.metrics import Row


def show(
    run: options.RunOrNewest = None, as_json: options.AsJson = False, root: options.Root = None
) -> None:
    """Show everything that is known of one run."""
    from llmforge.cli.run_views import print_run, run_json

    entry = entry_or_newest(root, run)
    if as_json:
        emit_json(run_json(entry))
    else:
        print_run(console(), entry)


def status(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run id, or the beginning of one.")
    ] = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Show how far a run is and what to do next; without RUN, all that are not finished."""
    from llmforge.cli.run_views import print_status, print_unfinished, status_json

    if run is not None:
        entry = entry_or_newest(root, run)
        if as_json:
            emit_json(status_json(entry))
        else:
            print_status(console(), entry)
        return
    from llmforge.insight.runs_index import RunsTable
    from llmforge.insight.summary import UNFINISHED, summarize
    from llmforge.rundir import RunDirectory, entry_of

    place = run_root(root)
    with RunsTable(place) as table:
        counts = table.counts()
        rows = table.rows(table.select(states=UNFINISHED), ["id"])
    unfinished = [summarize(entry_of(RunDirectory(place / row["id"]))) for row in rows]
    if as_json:
        emit_json({"counts": counts, "unfinished": [run.as_json() for run in unfinished]})
    else:
        print_unfinished(console(), unfinished, counts)


def metrics(
    run: options.RunOrNewest = None,
    per: Annotated[
        Literal["step", "epoch"], typer.Option("--per", help="A row per logged step or epoch.")
    ] = "step",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Print the metrics of a run; per epoch, the last value of each within it."""
    from llmforge.insight.metrics import metric_rows, per_epoch, write_csv

    directory = run_or_newest(root, run)
    rows = metric_rows(directory.metrics)
    if per == "epoch":
        rows = per_epoch(rows)
    if as_json:
        emit_json(rows)
    elif as_csv:
        write_csv(rows, sys.stdout)
    elif rows:
        _print_metrics(rows)
    else:
        echo(f"{directory.id} has no metrics yet", err=True)


def path(run: options.RunOrNewest = None, root: options.Root = None) -> None:
    """Print the directory of a run."""
    typer.echo(os.fsencode(run_or_newest(root, run).path))  # for scripts: the very bytes


def _print_metrics(rows: list[Row]) -> None:
    from llmforge.cli.render import METRIC_DIGITS, Column, number, print_table
    from llmforge.insight.metrics import columns

    names = columns(rows)
    digits = {name: METRIC_DIGITS.get(name, 4) for name in names}
    lines = [[number(row.get(name), digits=digits[name]) for name in names] for row in rows]
    print_table(console(), [Column(name, right=True) for name in names], lines)
