"""``forge runs compare`` and ``diff``: runs side by side, and why their results differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, emit_json, entry_or_newest

if TYPE_CHECKING:
    from llmforge.insight.compare import Comparison
    from llmforge.insight.explain import Difference
    from llmforge.insight.side_by_side import Cell, SideBySide


def diff(
    left: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    right: Annotated[str, typer.Argument(metavar="RUN", help="Another run.")],
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Compare two runs: recipe, results, and every difference, the likeliest cause first."""
    import dataclasses

    from llmforge.insight.compare import compare
    from llmforge.insight.explain import differences

    entries = entry_or_newest(root, left), entry_or_newest(root, right)
    found = compare(*entries)
    causes = differences(*entries)
    names = [entry.directory.id for entry in entries]
    if as_json:
        body = {"runs": names, **dataclasses.asdict(found)}
        emit_json({**body, "causes": [dataclasses.asdict(cause) for cause in causes]})
    else:
        _print_comparison(names, found)
        _print_causes(causes)


def compare(
    runs: Annotated[list[str], options.argument("RUN", "Two runs or more.")],
    baseline: Annotated[
        str | None,
        options.option("--baseline", metavar="RUN", help="Compare with this one, else the first."),
    ] = None,
    only_changed: Annotated[
        bool, typer.Option("--only-changed", help="Leave out results that are all the same.")
    ] = False,
    as_json: options.AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--md", help="Print a Markdown table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row per result.")] = False,
    root: options.Root = None,
) -> None:
    """Compare runs with a baseline: differing recipe keys, results with sign and percent."""
    import dataclasses

    from llmforge.errors import UsageError
    from llmforge.insight.side_by_side import as_mapping, flat_results, side_by_side

    wanted = [*([baseline] if baseline is not None else []), *runs]
    found = {item.directory.path: item for item in (entry_or_newest(root, run) for run in wanted)}
    if len(found) < 2:
        raise UsageError("comparing takes two runs or more", remedy="forge runs compare RUN RUN")
    compared = side_by_side(list(found.values()))
    if only_changed:
        results = tuple(line for line in compared.results if line.differs)
        compared = dataclasses.replace(compared, results=results)
    if as_json:
        emit_json(as_mapping(compared))
    elif as_csv:
        _write_csv(flat_results(compared))
    else:
        _print_side_by_side(compared, markdown=as_markdown)


def _print_causes(causes: Sequence[Difference]) -> None:
    from llmforge.cli.render import Column, plain_value, print_table

    if not causes:
        return
    out = console()
    out.print()
    styles = {"likely": "bold yellow", "possible": "yellow", "unlikely": "dim"}
    columns = [
        Column("explains a difference", styles=styles),
        Column("what"),
        Column("values", fold=True),
        Column("why", fold=True),
    ]
    rows = [
        (
            cause.likelihood,
            cause.name if cause.kind == "recipe" else f"{cause.kind}: {cause.name}",
            " | ".join(
                "-" if value is None else plain_value(value) for value in (cause.left, cause.right)
            ),
            cause.why,
        )
        for cause in causes
    ]
    print_table(out, columns, rows)


def _print_side_by_side(found: SideBySide, *, markdown: bool) -> None:
    from llmforge.cli.render import Column, print_table
    from llmforge.cli.run_commands.row_views import markdown_table

    headers = [f"{found.runs[0]} (baseline)", *found.runs[1:]]
    tables = [
        ("recipe", [(line.name, *(_shown(cell) for cell in line.cells)) for line in found.recipe]),
        (
            "result",
            [(line.name, *(_result(cell) for cell in line.cells)) for line in found.results],
        ),
    ]
    out = console()
    for title, rows in tables:
        if not rows:
            out.print(f"no {title} differs", highlight=False)
        elif markdown:
            echo(markdown_table([title, *headers], rows))
        else:
            columns = [Column(title), *(Column(name, fold=True) for name in headers)]
            print_table(out, columns, rows)
        if title == "recipe":
            echo()
    if any(cell.best for line in found.results for cell in line.cells) and not markdown:
        out.print("\n* the best of its row", style="dim")


def _shown(cell: Cell) -> str:
    from llmforge.cli.render import plain_value

    return "-" if cell.value is None else plain_value(cell.value)


def _result(cell: Cell) -> str:
    """Return a result with its difference to the baseline, the best one marked."""
    from llmforge.cli.render import number

    if cell.value is None:
        return "-"
    text = f"{number(cell.value)}{' *' if cell.best else ''}"
    if cell.change is None or not cell.change:
        return text
    sign = "+" if cell.change > 0 else "-"
    percent = "" if cell.percent is None else f", {cell.percent:+.1f}%"
    whole = isinstance(cell.value, int) and cell.change.is_integer()
    size = abs(int(cell.change)) if whole else abs(cell.change)
    return f"{text} ({sign}{number(size)}{percent})"


def _write_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    import csv
    import sys

    writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


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
