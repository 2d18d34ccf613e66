"""``forge plugins``: what is installed, what a component offers, and a package to begin with."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from llmforge.cli import options
from llmforge.cli.common import echo

app = typer.Typer(no_args_is_help=True, help="List, explain and create plugins.")


@app.command("list")
def list_plugins(
    kind: Annotated[
        str | None, typer.Option("--kind", "-k", metavar="KIND", help="Only this kind.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List installed components and commands, from package metadata: nothing is imported."""
    from llmforge.cli.common import console, emit_json
    from llmforge.cli.render import Column, print_table
    from llmforge.plugins import listed

    found = listed(_known_kind(kind) if kind else None)
    if as_json:
        emit_json([vars(entry) for entry in found])
        return
    rows = [
        (entry.kind, entry.name, f"{entry.distribution} {entry.version}".strip(), entry.target)
        for entry in found
    ]
    columns = [Column("kind"), Column("name"), Column("package"), Column("target", fold=True)]
    print_table(console(), columns, rows)
    restriction = os.environ.get("FORGE_PLUGINS")
    if restriction is not None:
        echo(f"\nFORGE_PLUGINS allows only: {restriction or 'nothing besides llmforge'}")
    targets = {(entry.kind, entry.name, entry.target) for entry in found}
    for (kind_, name), count in Counter((kind_, name) for kind_, name, _ in targets).items():
        if count > 1:
            echo(f"\nwarning: {count} {kind_}s are named '{name}': uninstall all but one")


@app.command()
def show(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="For example tracker.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="For example tensorboard.")],
    as_json: options.AsJson = False,
) -> None:
    """Show what a component does, its options, its hooks and what it needs."""
    from llmforge.cli.common import emit_json
    from llmforge.cli.describe import describe, text_of
    from llmforge.errors import UsageError
    from llmforge.installed import COMMAND
    from llmforge.plugins import entries, suggestion, unknown_component

    if _known_kind(kind) == COMMAND:
        raise UsageError("a command explains itself", remedy=f"run: forge {name} --help")
    if name not in entries(kind):
        raise UsageError(unknown_component(kind, name), remedy=suggestion(kind, name))
    described = describe(kind, name)
    if as_json:
        emit_json(described)
    else:
        echo(text_of(described), nl=False)


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What recipes will select it by.")],
    kind: Annotated[
        str,
        typer.Option("--kind", "-k", metavar="KIND", help="Any kind, or command."),
    ] = "tracker",
    directory: Annotated[
        Path, typer.Option("--dir", "-d", metavar="DIR", help="Where to put the package.")
    ] = Path(),
    command: Annotated[
        bool, typer.Option("--command", help="Also add a command: forge NAME.")
    ] = False,
) -> None:
    """Write a working plugin package: component, tests, recipe, README."""
    from llmforge.cli.scaffold import write_package
    from llmforge.errors import UsageError

    try:
        written = write_package(name, kind=kind, parent=directory, command=command)
    except OSError as error:
        raise UsageError(f"the package cannot be written: {error}") from error
    root = written[0].parent
    for path in written:
        echo(f"wrote {path}")
    echo(f"\nnext:  pip install -e {root} && pytest {root}")


def _known_kind(kind: str) -> Any:
    from llmforge.component import KINDS
    from llmforge.errors import UsageError
    from llmforge.installed import COMMAND
    from llmforge.options import closest

    known = [*KINDS, COMMAND]
    if kind in known:
        return kind
    near = closest(kind, known)
    remedy = f"did you mean '{near}'?" if near else f"known kinds: {', '.join(known)}"
    raise UsageError(f"unknown kind '{kind}'", remedy=remedy)
