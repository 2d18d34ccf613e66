"""What every command shares: where runs are, consoles, JSON output, whether somebody watches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.printable import printable
from llmforge.run.reporting.console import console, error_console
from llmforge.run_root import run_root
from llmforge.strict_json import strict_json

if TYPE_CHECKING:
    from llmforge.rundir import RunDirectory, RunEntry

__all__ = [
    "console",
    "echo",
    "emit_json",
    "entry_or_newest",
    "error_console",
    "interactive",
    "run_or_newest",
    "run_root",
    "say_newest",
]


def run_or_newest(root: Path | None, run: str | None, *, gone: bool = False) -> RunDirectory:
    """Return the run that was named, or the newest, which is said.

    Raises:
        RunError: there is no such run, or none at all.
    """
    from llmforge.rundir import find_run

    if run is not None:
        return find_run(run_root(root), run, gone=gone)
    from llmforge.insight.runs_index import newest_run

    newest = newest_run(run_root(root))
    say_newest("run", newest.id)
    return newest


def entry_or_newest(root: Path | None, run: str | None) -> RunEntry:
    """Return what is known of the run that was named, or of the newest; its directory may be gone.

    Raises:
        RunError: there is no such run, or none at all.
    """
    from llmforge.rundir import entry_of

    return entry_of(run_or_newest(root, run, gone=True))


def say_newest(what: str, name: str) -> None:
    """Say on standard error what a command takes that was given no name."""
    error_console().print(f"no {what} was named: taking the newest, {name}", style="dim")


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
    echo(strict_json(value, indent=2))
