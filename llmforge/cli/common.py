"""What every command shares: where runs lie, consoles, JSON output, whether somebody watches."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llmforge.printable import printable
from llmforge.run.console import console, error_console
from llmforge.run_root import run_root

__all__ = [
    "AsJson",
    "Root",
    "console",
    "echo",
    "emit_json",
    "error_console",
    "interactive",
    "run_root",
]

Root = Annotated[
    Path | None,
    typer.Option(
        "--root", metavar="DIR", help="Directory of all runs; else FORGE_RUN_ROOT, else 'runs'."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def interactive() -> bool:
    """Return whether somebody can be asked: input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text with its control characters escaped."""
    print(
        printable(str(text)),
        end="\n" if nl else "",
        file=sys.stderr if err else sys.stdout,
        flush=True,
    )


def emit_json(value: Any) -> None:
    """Print ``value`` as JSON that every parser takes; NaN and infinities become strings."""
    echo(json.dumps(_strict(value), indent=2, allow_nan=False, default=str))


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
