"""The command ``forge hello``; llmforge imports this module when it is invoked, not before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from llmforge.errors import UsageError


def hello(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN_DIRECTORY", help="A run tracked by 'hello'.")
    ] = None,
) -> None:
    """Say hello, or show what the tracker 'hello' wrote about a run."""
    if run is None:
        typer.echo("Hello from llmforge-hello: try 'forge train hello.toml --profile test'.")
        return
    log = run / "trackers" / "hello" / "log.txt"
    if not log.is_file():
        raise UsageError(
            f"the tracker 'hello' wrote nothing in {run}",
            remedy="add it to the recipe: [tracker] names = ['hello']",
        )
    typer.echo(log.read_text(encoding="utf-8"), nl=False)
