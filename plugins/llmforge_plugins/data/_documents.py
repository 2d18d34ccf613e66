"""Text as documents: what an end-of-text token is put after, and which of them validate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

KINDS = ("file", "blank_line", "line")
"""What ``document`` may be besides a delimiter."""


def documents(lines: Iterable[str], kind: str) -> Iterator[str]:
    """Yield the documents in the lines of one file; together they are the file.

    Blank lines belong to the document before them, or to the first one; a delimiter, and a line
    break right after it, belong to none.

    Args:
        lines: lines with their ends.
        kind: ``file``, ``blank_line`` or ``line``, or what stands between two documents.
    """
    if kind not in KINDS:
        yield from _delimited(lines, kind)
        return
    if kind == "file":
        text = "".join(lines)
        if text:
            yield text
        return
    document: list[str] = []
    started = after_blank = False
    for line in lines:
        blank = not line.strip()
        if started and not blank and (after_blank or kind == "line"):
            yield "".join(document)
            document = []
        document.append(line)
        started = started or not blank
        after_blank = blank
    if document:
        yield "".join(document)


def _delimited(lines: Iterable[str], delimiter: str) -> Iterator[str]:
    parts: list[str] = []
    after_delimiter = False

    def document(end: str) -> str:
        text = "".join((*parts, end))
        parts.clear()
        if not after_delimiter:
            return text
        return text[2:] if text.startswith("\r\n") else text.removeprefix("\n")

    rest = ""  # it may end with the beginning of a delimiter
    for line in lines:
        *ended, rest = (rest + line).split(delimiter)
        for piece in ended:
            if text := document(piece):
                yield text
            after_delimiter = True
        done = max(0, len(rest) - len(delimiter) + 1)
        parts.append(rest[:done])
        rest = rest[done:]
    if text := document(rest):
        yield text


def divide(texts: Iterable[str], boundary: int) -> Iterator[tuple[str, str]]:
    """Yield (split, document): training before the character ``boundary``, validation after it.

    A document across the boundary trains; the last one is cut there, after a line if it can be.
    """
    position = 0
    for text, following in pairwise(chain(texts, (None,))):
        assert text is not None
        start, position = position, position + len(text)
        if start >= boundary:
            yield "validation", text
        elif position <= boundary or following is not None:
            yield "train", text
        else:
            cut = boundary - start
            cut = text.rfind("\n", 0, cut) + 1 or cut
            yield "train", text[:cut]
            yield "validation", text[cut:]
