"""Every command line of ours in the documentation is one that can be typed."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_pages import PAGES, ROOT, blocks

from llmforge.cli.app import app
from llmforge.errors import ForgeError
from llmforge.recipe import load_recipe
from llmforge.recipe.shipped import shipped_names

SHELL = ("console", "bash", "sh", "shell")
OF_PLUGINS = {"hello", "acme"}
"""Commands of the packages the pages take as examples."""
SCRIPTS = sorted(
    {name for page in PAGES for name in re.findall(r"python ([\w/]+\.py)", page.read_text("utf-8"))}
    - {"train.py", "generate.py"}  # scripts of the reader's own
)


def documented() -> list[tuple[str, str, bool]]:
    """Return (page, command, whether it is complete); in running text arguments may be left out."""
    whole = [
        (Path(block.page).name, line)
        for block in blocks(*SHELL)
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    inline = [
        (page.name, line)
        for page in PAGES
        for line in re.findall(r"`(forge [^`]+)`", page.read_text(encoding="utf-8"))
    ]
    found = []
    for complete, lines in ((True, whole), (False, inline)):
        for page, line in lines:
            command = line.strip().removeprefix("$ ").split("#")[0].strip()
            ours = command.startswith("forge ") and command.split()[1] not in OF_PLUGINS
            generated = page == "cli.md"  # written from the commands themselves
            if ours and not generated and "|" not in command and "..." not in command:
                found.append((page, command, complete))
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
        rest = [*context._protected_args, *context.args]
        if not rest and current.invoke_without_command:
            return
        name, current, arguments = current.resolve_command(context, rest)
        parent = context


def of_a_recipe() -> list[tuple[str, str]]:
    """Return (page, command) of those that change a recipe's keys or choose its profile."""
    return [
        (page, command)
        for page, command, _ in documented()
        if re.search(r" (--set|--profile|-p) ", command) and "…" not in command
        if re.match(r"forge (train|sweep|plan|recipe (show|check)|launch \w+) ", command)
    ]


def load_named(command: str) -> None:
    """Load the recipe of a command as it is changed; another one stands in for a reader's own."""
    words = shlex.split(command)
    pairs = list(pairwise(words))
    recipe = next((word for word in words if word in shipped_names()), "neox_1_2b")
    chosen = [value for name, value in pairs if name in ("--profile", "-p")]
    changes = [value for name, value in pairs if name == "--set"]
    load_recipe(recipe, profile=chosen[0] if chosen else None, overrides=changes)


@pytest.mark.parametrize(("page", "command", "complete"), documented())
def test_documented_command_is_understood(page: str, command: str, complete: bool) -> None:
    understands(command, complete=complete)


def test_a_command_that_is_not_there_is_noticed() -> None:
    with pytest.raises(BaseException, match=r"(?i)no command|no such"):
        understands("forge nothing")
    with pytest.raises(BaseException, match=r"(?i)no such option"):
        understands("forge train wikitext_tiny --nothing")


@pytest.mark.parametrize(("page", "command"), of_a_recipe())
def test_what_a_documented_command_changes_is_in_the_recipe(page: str, command: str) -> None:
    load_named(command)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_that_is_named_is_there(script: str) -> None:
    assert (ROOT / script).is_file()


def test_a_key_or_profile_that_is_not_there_is_noticed() -> None:
    for wrong in ("--set train.max_step=3", "--profile tset"):
        with pytest.raises(ForgeError, match=r"max_steps|test"):
            load_named(f"forge train wikitext_tiny {wrong}")


def test_commands_are_found_in_every_sort_of_block() -> None:
    found = documented()
    assert len([1 for _, _, complete in found if complete]) >= 75
    assert ("several-gpus.md", "forge train recipe.toml --nproc-per-node 2", True) in found
    assert len(of_a_recipe()) >= 10
