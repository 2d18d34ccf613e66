"""``forge runs diff``: runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import console, emit_json, entry_or_newest

if TYPE_CHECKING:
    from llmforge.insight.compare import Comparison


def diff(
    left: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    right: Annotated[str, typer.Argument(metavar="RUN", help="Another run.")],
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Compare two runs: recipe keys that differ, then results side by side."""
    import dataclasses

    from llmforge.insight.compare import compare

    entries = entry_or_newest(root, left), entry_or_newest(root, right)
    found = compare(*entries)
    names = [entry.directory.id for entry in entries]
    if as_json:
        emit_json({"runs": names, **dataclasses.asdict(found)})
    else:
        _print_comparison(names, found)


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
