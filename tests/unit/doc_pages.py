"""The pages of the documentation, README.md among them, and the blocks of code on them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_BLOCK = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the page, relative to the repository's root.
        line: of its first line, counted from 1.
        language: what stands behind the fence.
        text: what is in it.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return every fenced block of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page.relative_to(ROOT).as_posix(),
            line=text.count("\n", 0, found.start(3)) + 1,
            language=found[2].strip(),
            text=found[3],
        )
        for found in _BLOCK.finditer(text)
    ]


def blocks(*languages: str) -> list[Block]:
    """Return the blocks in these languages on all pages."""
    return [block for page in PAGES for block in blocks_of(page) if block.language in languages]
