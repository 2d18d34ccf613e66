"""``forge runs list``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, emit_json, run_root

if TYPE_CHECKING:
    from llmforge.insight.runs_index import RunsTable

_TERMINAL_ROWS = 50

Where = Annotated[
    str | None,
    options.option(
        "--where",
        metavar="EXPRESSION",
        help="Only runs for which it holds: \"val/loss < 3.3 and 'base' in tags\". Names are "
        "columns, metrics and recipe keys.",
    ),
]
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
        help="started, ended, id, state, step, duration, loss, perplexity, a metric such as "
        "val/loss or a recipe key. Times, steps and durations: largest first.",
    ),
]
Columns = Annotated[
    str | None,
    options.option(
        "--columns",
        metavar="A,B,C",
        help="These columns: of the list, metrics, recipe keys; 'help' names all there are.",
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
Refresh = Annotated[
    bool,
    typer.Option(
        "--refresh",
        help="Compare every run with its files. Otherwise a file that was changed by hand among "
        "more than 5,000 runs may be noticed a few commands later.",
    ),
]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
AsMarkdown = Annotated[bool, typer.Option("--md", help="Print a Markdown table.")]


def list_(
    where: Where = None,
    states: States = None,
    tags: Tags = None,
    since: Since = None,
    sort: SortKey = "started",
    reverse: Reverse = False,
    columns: Columns = None,
    limit: Limit = None,
    archived: Archived = False,
    storage: Storage = None,
    as_json: options.AsJson = False,
    as_csv: AsCsv = False,
    as_markdown: AsMarkdown = False,
    refresh: Refresh = False,
    root: options.Root = None,
) -> None:
    """List runs, the newest first."""
    from llmforge.errors import UsageError

    if as_json + as_csv + as_markdown > 1:
        raise UsageError("--json, --csv and --md are three forms of one list: give one of them")
    if sort.startswith("-"):
        raise UsageError(
            f"--sort {sort}: no run has a name that begins with '-'",
            remedy=f"--sort {sort[1:]} --reverse",
        )
    if storage is not None:
        from llmforge.cli.runs_storage import print_stored

        print_stored(storage, as_json=as_json)
        return
    from llmforge.cli.run_commands import row_views
    from llmforge.insight.runs_index import RunsTable
    from llmforge.insight.summary import parse_since

    out = console()
    for_people = not (as_json or as_csv or as_markdown)
    most = (_TERMINAL_ROWS if for_people and out.is_terminal else 0) if limit is None else limit
    names = None if columns is None else [name.strip() for name in columns.split(",")]
    with RunsTable(run_root(root), thorough=refresh, archived=archived) as table:
        if names == ["help"]:
            _print_names(table, as_json=as_json)
            return
        numbers = table.select(
            where=where or "",
            states=states or (),
            tags=tags or (),
            since=None if since is None else parse_since(since),
            sort=sort,
            reverse=reverse,
        )
        shown = numbers[: most or None]
        if as_json:
            emit_json(row_views.as_json(table.rows(shown, names), whole=names is None))
        elif as_csv:
            row_views.write_csv(table.rows(shown, names or row_views.WRITTEN), sys.stdout)
        elif as_markdown:
            echo(row_views.as_markdown(table.rows(shown, names or row_views.SHOWN)))
        elif shown:
            row_views.print_rows(
                out, table.rows(shown, names or row_views.SHOWN), chosen=names is not None
            )
        else:
            out.print(_none_text(run_root(root), filtered=bool(where or states or tags or since)))
    if for_people and len(shown) < len(numbers) and out.is_terminal:
        out.print(f"\n{len(numbers) - len(shown):,} more; --limit 0 shows all", style="dim")


def _print_names(table: RunsTable, *, as_json: bool) -> None:
    from llmforge.insight.runs_index.columns import FIXED

    columns = table.columns
    found = {
        "of every run": list(FIXED),
        "metrics": list(columns.metrics),
        "recipe": list(columns.recipe),
    }
    if as_json:
        emit_json(found)
        return
    out = console()
    for title, names in found.items():
        out.print(title, style="bold")
        for name in names:
            out.print(f"  {name}", highlight=False)


def _none_text(root: Path, *, filtered: bool) -> str:
    return f"no such runs in {root}" if filtered else f"no runs in {root}"
