"""``forge runs``: find, inspect, compare and clear runs. No command here imports torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmforge.cli import options
from llmforge.cli.common import (
    console,
    echo,
    emit_json,
    interactive,
    run_or_newest,
    run_root,
)
from llmforge.cli.runs_storage import begin_next_attempt, print_stored, pull
from llmforge.cli.runs_sync import sync

if TYPE_CHECKING:
    from llmforge.insight.compare import Comparison
    from llmforge.insight.metrics import Row
    from llmforge.insight.summary import RunSummary
    from llmforge.rundir import RunDirectory, RunEntry

app = typer.Typer(help="List, inspect, compare and clear runs.", no_args_is_help=True)


_TERMINAL_ROWS = 50


States = Annotated[
    list[str] | None,
    options.option("--state", metavar="STATE", help="Only runs in it; may be repeated."),
]
Tags = Annotated[
    list[str] | None,
    options.option("--tag", metavar="TAG", help="Only runs with it; may be repeated."),
]
Since = Annotated[
    str | None,
    options.option("--since", metavar="WHEN", help="Started in the last 2d, or on a date."),
]
SortKey = Annotated[
    str,
    typer.Option(
        "--sort",
        metavar="KEY",
        help="started, ended, id, state, step, duration, loss, perplexity or a metric "
        "such as val/loss. Times, steps and durations: largest first.",
    ),
]
Reverse = Annotated[bool, typer.Option("--reverse", help="Reverse the order.")]
Limit = Annotated[
    int | None,
    options.option(
        "--limit",
        metavar="N",
        min=0,
        help=f"Rows at most, 0 for all; on a terminal {_TERMINAL_ROWS} when not given.",
    ),
]
Archived = Annotated[bool, typer.Option("--archived", help="Cleared runs instead.")]
Storage = Annotated[
    str | None,
    options.option("--storage", metavar="URL", help="The runs in storage at URL instead."),
]


@app.command("list")
def list_(
    states: States = None,
    tags: Tags = None,
    since: Since = None,
    sort: SortKey = "started",
    reverse: Reverse = False,
    limit: Limit = None,
    archived: Archived = False,
    storage: Storage = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """List runs, the newest first."""
    if storage is not None:
        print_stored(storage, as_json=as_json)
        return
    from llmforge.insight.summary import parse_since, select

    chosen = select(
        _summaries(run_root(root), archived=archived),
        states=states or (),
        tags=tags or (),
        since=None if since is None else parse_since(since),
        sort=sort,
        reverse=reverse,
    )
    if as_json:
        emit_json([run.as_json() for run in chosen[: limit or None]])
        return
    from llmforge.cli.run_views import print_list

    out = console()
    most = (_TERMINAL_ROWS if out.is_terminal else 0) if limit is None else limit
    shown = chosen[: most or None]
    if not shown:
        out.print(_none_text(run_root(root), filtered=bool(states or tags or since)))
        return
    print_list(out, shown)
    if len(shown) < len(chosen) and out.is_terminal:
        out.print(f"\n{len(chosen) - len(shown):,} more; --limit 0 shows all", style="dim")


@app.command()
def show(
    run: options.RunOrNewest = None, as_json: options.AsJson = False, root: options.Root = None
) -> None:
    """Show everything that is known of one run."""
    from llmforge.cli.run_views import print_run, run_json

    entry = _entry(root, run)
    if as_json:
        emit_json(run_json(entry))
    else:
        print_run(console(), entry)


@app.command()
def status(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run id, or the beginning of one.")
    ] = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Show how far a run is and what to do next; without RUN, all that are not finished."""
    from llmforge.cli.run_views import print_status, print_unfinished, state_counts, status_json

    if run is not None:
        entry = _entry(root, run)
        if as_json:
            emit_json(status_json(entry))
        else:
            print_status(console(), entry)
        return
    from llmforge.insight.summary import UNFINISHED, select

    runs = select(_summaries(run_root(root)))
    if as_json:
        unfinished = [item.as_json() for item in runs if item.state in UNFINISHED]
        emit_json({"counts": state_counts(runs), "unfinished": unfinished})
    else:
        print_unfinished(console(), runs)


@app.command()
def clear(
    run: options.Run,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Set a run and its completion aside, so that the same recipe trains afresh."""
    from llmforge.errors import RunError, RunLockedError, UsageError
    from llmforge.rundir import RunDirectory, clear_run, entry_of, next_attempt

    directory = _clearable(run_root(root), run)
    state = entry_of(directory).state if directory.record.exists() else "not readable"
    if state == "running":
        raise RunLockedError(
            f"run {directory.id} is being trained",
            remedy=f"stop it first; 'forge runs status {directory.id}' says where it runs",
        )
    if not yes:
        if as_json or not interactive():
            raise UsageError(
                f"clearing {directory.id} needs a yes, and there is no terminal to ask on",
                remedy=f"forge runs clear {directory.id} --yes",
            )
        typer.confirm(f"Set run {directory.id} ({state}) aside?", abort=True)
    aside = clear_run(directory.root, directory.id)
    if aside is None:
        raise RunError(f"run {directory.id} is gone already")
    if as_json:
        emit_json({"id": directory.id, "state": state, "directory": str(aside)})
        return
    echo(f"{directory.id} is now in {aside}")
    echo("its completion is cleared: the next 'forge train' of its recipe starts fresh")
    begin_next_attempt(
        directory,
        attempt=next_attempt(directory.root, directory.id),
        aside=RunDirectory(aside),
    )


app.command()(sync)
app.command()(pull)


@app.command()
def diff(
    left: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    right: Annotated[str, typer.Argument(metavar="RUN", help="Another run.")],
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Compare two runs: recipe keys that differ, then results side by side."""
    import dataclasses

    from llmforge.insight.compare import compare

    entries = _entry(root, left), _entry(root, right)
    found = compare(*entries)
    names = [entry.directory.id for entry in entries]
    if as_json:
        emit_json({"runs": names, **dataclasses.asdict(found)})
    else:
        _print_comparison(names, found)


@app.command()
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


@app.command()
def path(run: options.RunOrNewest = None, root: options.Root = None) -> None:
    """Print the directory of a run."""
    typer.echo(os.fsencode(run_or_newest(root, run).path))  # for scripts: the very bytes


def _entry(root: Path | None, text: str | None) -> RunEntry:
    from llmforge.rundir import entry_of

    return entry_of(run_or_newest(root, text, gone=True))


def _summaries(root: Path, *, archived: bool = False) -> list[RunSummary]:
    import time

    from llmforge.insight.summary import summarize
    from llmforge.rundir import list_runs

    now = time.time()
    return [summarize(entry, now=now) for entry in list_runs(root, archived=archived)]


def _clearable(root: Path, text: str) -> RunDirectory:
    """Return the run to clear; a directory of exactly this name need not hold a record."""
    from llmforge.errors import UsageError
    from llmforge.rundir import RunDirectory, find_run
    from llmforge.rundir.layout import ARCHIVE

    exact = RunDirectory(root / text)
    known = exact.checkpoints.is_dir() or exact.record.exists()
    found = exact if known else find_run(root, text, gone=True)
    if found.root.name == ARCHIVE:
        raise UsageError(f"{found.id} is cleared already and is in {found.path}")
    return found


def _none_text(root: Path, *, filtered: bool) -> str:
    return f"no such runs in {root}" if filtered else f"no runs in {root}"


def _print_comparison(names: list[str], found: Comparison) -> None:
    from llmforge.cli.render import STATE_STYLES, Column, number, plain_value, print_table

    out = console()
    for title, pairs in (
        ("recipe", found.recipe),
        ("resolved", found.resolved),
        ("result", found.metrics),
    ):
        if not pairs and title == "recipe":
            out.print("the recipes are the same")
        if not pairs:
            continue
        columns = [Column(title), *(Column(name, fold=True, styles=STATE_STYLES) for name in names)]
        shown = number if title == "result" else plain_value
        rows = [
            (
                pair.name,
                *("-" if value is None else shown(value) for value in (pair.left, pair.right)),
            )
            for pair in pairs
        ]
        if title != "recipe":
            out.print()
        print_table(out, columns, rows)


def _print_metrics(rows: list[Row]) -> None:
    from llmforge.cli.render import METRIC_DIGITS, Column, number, print_table
    from llmforge.insight.metrics import columns

    names = columns(rows)
    digits = {name: METRIC_DIGITS.get(name, 4) for name in names}
    lines = [[number(row.get(name), digits=digits[name]) for name in names] for row in rows]
    print_table(console(), [Column(name, right=True) for name in names], lines)
