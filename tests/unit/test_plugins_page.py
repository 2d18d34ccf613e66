"""docs/how-to/write-a-plugin.md names what exists."""

from __future__ import annotations

import re
from pathlib import Path

import llmforge.testing
from llmforge.cli.scaffold import TEMPLATED
from llmforge.component import KINDS
from llmforge.installed import COMMANDS_GROUP

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "how-to" / "write-a-plugin.md").read_text(encoding="utf-8")


def test_it_names_every_entry_point_group_and_no_other() -> None:
    named = set(re.findall(r"`(llmforge\.[a-z]+)`", PAGE))
    modules = {"llmforge.errors", "llmforge.events", "llmforge.interfaces", "llmforge.testing"}
    assert named - modules == {kind.group for kind in KINDS.values()} | {COMMANDS_GROUP}


def test_it_describes_every_contract_suite_and_stand_in() -> None:
    exported = [name for name in llmforge.testing.__all__ if f"`{name}`" not in PAGE]
    assert exported == []


def test_it_names_every_kind_that_can_be_begun() -> None:
    started = re.search(r"`--kind` may be ([^;]*);", PAGE)
    assert started is not None
    assert set(re.findall(r"[a-z]+", started[1])) - {"or"} == set(TEMPLATED)


def test_what_it_shows_of_the_example_is_in_the_example() -> None:
    example = Path(__file__).parents[2] / "examples" / "llmforge-hello"
    tracker = (example / "src" / "llmforge_hello" / "tracker.py").read_text(encoding="utf-8")
    shown = PAGE.split("Its tracker begins like this:")[1].split("```")[1].splitlines()[1:]
    missing = [line for line in shown if line not in tracker.splitlines()]
    assert missing == []
