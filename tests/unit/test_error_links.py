"""Where an error message points to a page of the documentation, the page and the heading exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "llmforge").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])


def links() -> set[str]:
    """Return every ``docs/page.md`` and ``docs/page.md#heading`` written in the code."""
    found: set[str] = set()
    for path in SOURCES:
        found |= set(re.findall(r"docs/[\w/-]+\.md(?:#[\w-]+)?", path.read_text(encoding="utf-8")))
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as MkDocs makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", text) for text in words}


@pytest.mark.parametrize("link", sorted(links()))
def test_the_page_and_the_heading_exist(link: str) -> None:
    name, _, anchor = link.partition("#")
    assert (ROOT / name).is_file()
    assert not anchor or anchor in anchors(ROOT / name)


def test_errors_of_memory_and_of_numbers_point_to_the_page_of_troubles() -> None:
    assert {"docs/troubleshooting.md#memory", "docs/troubleshooting.md#nan"} <= links()
