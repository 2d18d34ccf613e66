"""WikiText's articles in a stream of lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Yield each article of a WikiText file, from the blank line before its title.

    A title is `` = Title = `` between blank lines (sections have more signs; formulas that look
    alike have no blank lines around them). Concatenated, the articles are the file.
    """
    article: list[str] = []
    for line, following in pairwise(chain(lines, ("",))):
        blank_around = article and not article[-1].strip() and not following.strip()
        if blank_around and is_title(line):
            blank = article.pop()
            if article:
                yield "".join(article)
            article = [blank]
        article.append(line)
    if article:
        yield "".join(article)


def is_title(line: str) -> bool:
    """Return whether ``line`` has the form of an article's title."""
    text = line.rstrip()
    return (
        len(text) > len(" =  =")
        and text.startswith(" = ")
        and text.endswith(" =")
        and not text.startswith(" = = ")
        and not text.endswith(" = =")
    )
