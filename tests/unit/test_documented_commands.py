"""Every ``forge`` command line in the documentation is one that ``forge`` understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from llmforge.cli.app import app

ROOT = Path(__file__).parents[2]
OF_PLUGINS = {"hello", "acme"}
"""Commands of the packages the pages take as examples."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def documented() -> list[tuple[str, str, bool]]:
    """Return (page, command, whether it is complete); in running text arguments may be left out."""
    found = []
    for page in PAGES:
        if page.name == "cli.md":  # written from the commands themselves
            continue
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        lines = [(line, True) for block in blocks for line in block.splitlines()]
        lines += [(line, False) for line in re.findall(r"`(forge [^`]+)`", text)]
        for line, complete in lines:
            command = line.removeprefix("$ ").split("#")[0].strip()
            ours = command.startswith("forge ") and command.split()[1] not in OF_PLUGINS
            if ours and "|" not in command and "..." not in command:
                found.append((page.name, command, complete))
    return found


def understands(command: str, *, complete: bool = True) -> None:
    """Parse ``command`` all the way down, running nothing."""
    current: Any = typer.main.get_command(app)
    arguments = shlex.split(command)[1:]
    parent: Any = None
    name = "forge"
    while True:
        is_group = hasattr(current, "list_commands")
        if is_group and (not arguments or arguments[0] in ("--help", "-h")):
            return
        if {"--help", "--version"} & set(arguments):
            return
        context = current.make_context(
            name, list(arguments), parent=parent, resilient_parsing=not (is_group or complete)
        )
        if not is_group:
            return
        name, current, arguments = current.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        parent = context


@pytest.mark.parametrize(("page", "command", "complete"), documented())
def test_documented_command_is_understood(page: str, command: str, complete: bool) -> None:
    understands(command, complete=complete)


def test_a_command_that_is_not_there_is_noticed() -> None:
    with pytest.raises(BaseException, match=r"(?i)no command|no such"):
        understands("forge nothing")
    with pytest.raises(BaseException, match=r"(?i)no such option"):
        understands("forge train wikitext_tiny --nothing")
