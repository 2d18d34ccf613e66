"""``forge doctor``: whether this machine is fit to train, and what to do where it is not."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from llmforge.doctor.finding import Finding
    from llmforge.recipe import Recipe

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_WIDTH = max(map(len, _STYLES))

RecipeOrNone = Annotated[
    str | None,
    options.argument("RECIPE", "A recipe to check, too; its needs decide what is a problem."),
]
NoTraining = Annotated[
    bool, typer.Option("--no-training", help="Do not train a tiny model, which takes seconds.")
]


def doctor(
    recipe: RecipeOrNone = None,
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    no_training: NoTraining = False,
    as_json: options.AsJson = False,
) -> None:
    """Check this machine: PyTorch, GPUs, disks, packages, plugins, network, a tiny training.

    Exit codes: 0 no problem (there may be warnings), 1 a problem. With RECIPE only what it needs
    is a problem.
    """
    given = frozenset(os.environ)  # before .env is read
    from llmforge.cli.common import console, emit_json
    from llmforge.doctor.examination import Examination

    def load() -> Recipe:
        from llmforge.recipe import load_recipe

        assert recipe is not None
        overrides = options.recipe_overrides(recipe, profile=profile, assignments=assignments)
        return load_recipe(recipe, profile=profile, overrides=overrides)

    start = time.monotonic()
    examination = Examination(
        None if recipe is None else load, training=not no_training, given=given
    )
    found = list(_told(console(), examination.findings(), silent=as_json))
    counts = Counter[str](finding.status for finding in found)
    seconds = time.monotonic() - start
    if as_json:
        emit_json(
            {
                "problems": counts["problem"],
                "warnings": counts["warning"],
                "seconds": round(seconds, 3),
                "findings": [_as_value(finding) for finding in found],
            }
        )
    else:
        console().print(f"\n{_summary(counts, seconds)}", highlight=False)
    if counts["problem"]:
        raise typer.Exit(1)


def _told(console: Console, findings: Iterator[Finding], *, silent: bool) -> Iterator[Finding]:
    """Pass findings on without secrets, each printed as it is found."""
    from dataclasses import replace

    from llmforge.doctor.examination import GROUPS
    from llmforge.redaction import redact

    group = ""
    for finding in findings:
        clean = replace(finding, message=redact(finding.message), remedy=redact(finding.remedy))
        if not silent:
            if finding.group != group:
                console.print(
                    f"\n{GROUPS[finding.group]}" if group else GROUPS[finding.group], style="bold"
                )
            group = finding.group
            _print(console, clean)
        yield clean


def _print(console: Console, finding: Finding) -> None:
    """Print a finding: with a hanging indent on a terminal, as one line each in a pipe."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from llmforge.printable import printable_line

    message, remedy = printable_line(finding.message), printable_line(finding.remedy)
    if not console.is_terminal:
        console.out(f"  {finding.status:<{_WIDTH}}  {message}", highlight=False)
        if remedy:
            console.out(f"  {'':<{_WIDTH}}  -> {remedy}", highlight=False)
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=_WIDTH, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(finding.status, style=_STYLES[finding.status]), Text(message))
    if remedy:
        table.add_row("", Text(f"→ {remedy}", style="cyan" if finding.status != "ok" else "dim"))
    console.print(Padding(table, (0, 0, 0, 2)))


def _summary(counts: Counter[str], seconds: float) -> str:
    parts = [
        f"{counts[status]} {status}{'s' if counts[status] != 1 else ''}"
        for status in ("problem", "warning")
    ]
    return f"{', '.join(parts)}, {counts['ok']} checks passed in {seconds:.1f} s"


def _as_value(finding: Finding) -> dict[str, str]:
    return {
        "group": finding.group,
        "check": finding.check,
        "status": finding.status,
        "message": finding.message,
        "remedy": finding.remedy,
    }
