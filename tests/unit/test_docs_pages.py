"""Pages are called what the navigation calls them; what runs left for them is shown and small."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from doc_pages import DOCS, PAGES, ROOT

NAVIGATION: Mapping[str, str] = {
    path: title
    for title, path in re.findall(
        r"^ +- ([^:\n]+): ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE
    )
}
CAPTURED = sorted((DOCS / "captured").iterdir())
LARGEST_PICTURE = 60_000
"""Bytes."""


def test_every_page_is_in_the_navigation() -> None:
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(NAVIGATION) == pages


@pytest.mark.parametrize("path", [path for path in NAVIGATION if path != "index.md"])
def test_a_pages_heading_is_what_the_navigation_calls_it(path: str) -> None:
    headings = re.findall(r"^# (.+)$", (DOCS / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == NAVIGATION[path]


@pytest.mark.parametrize("path", CAPTURED, ids=lambda path: path.name)
def test_what_was_captured_is_on_a_page_and_written_by_the_script(path: Path) -> None:
    assert path.stat().st_size > 0
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert f"captured/{path.name}" in pages
    script = (DOCS / "captures.py").read_text(encoding="utf-8")
    assert path.stem.removeprefix("sweep-") in script


@pytest.mark.parametrize("path", [path for path in CAPTURED if path.suffix == ".png"])
def test_a_picture_is_a_small_png(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < LARGEST_PICTURE
