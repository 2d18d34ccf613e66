"""Text as documents: what an end-of-text token is put after, and which of them validate.

Documents may be longer than memory, so they are handled in parts: each a text and whether the
document ends with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

KINDS = ("file", "blank_line", "line")
"""What ``document`` may be besides a delimiter."""

NEEDS_LINES = ("blank_line", "line")
"""Those of them that are told from the lines of a text."""

Part = tuple[str, bool]

_LONGEST_PART = 1 << 16


def documents(lines: Iterable[str], kind: str) -> Iterator[str]:
    """Yield the documents in the lines of one file whole; see :func:`document_parts`."""
    return joined(document_parts(lines, kind))


def joined(parts: Iterable[Part]) -> Iterator[str]:
    """Yield whole documents."""
    texts: list[str] = []
    for text, ends in parts:
        texts.append(text)
        if ends:
            yield "".join(texts)
            texts.clear()


def document_parts(text: Iterable[str], kind: str) -> Iterator[Part]:
    """Yield the documents in one file in parts; together they are the file.

    Blank lines belong to the document before them, or to the first one; a delimiter, and a line
    break right after it, belong to none.

    Args:
        text: lines with their ends; or anything where ``kind`` is not in :data:`NEEDS_LINES`.
        kind: ``file``, ``blank_line`` or ``line``, or what stands between two documents.
    """
    if kind == "file":
        return _whole(text)
    if kind in NEEDS_LINES:
        return _of_lines(text, each=kind == "line")
    return _delimited(text, kind)


def _whole(blocks: Iterable[str]) -> Iterator[Part]:
    held = ""
    for block in filter(None, blocks):
        if held:
            yield held, False
        held = block
    if held:
        yield held, True


def _of_lines(lines: Iterable[str], *, each: bool) -> Iterator[Part]:
    document: list[str] = []
    size = 0
    started = after_blank = False
    for line in lines:
        blank = not line.strip()
        if started and not blank and (after_blank or each):
            yield "".join(document), True
            document, size = [], 0
        elif size > _LONGEST_PART:
            yield "".join(document), False
            document, size = [], 0
        document.append(line)
        size += len(line)
        started = started or not blank
        after_blank = blank
    if document:
        yield "".join(document), True


def _delimited(blocks: Iterable[str], delimiter: str) -> Iterator[Part]:
    after_delimiter = inside = False
    rest = ""  # it may end with the beginning of a delimiter

    def part(text: str) -> str:
        if not after_delimiter or inside:
            return text
        return text[2:] if text.startswith("\r\n") else text.removeprefix("\n")

    for block in blocks:
        *ended, rest = (rest + block).split(delimiter)
        for piece in ended:
            text = part(piece)
            if text or inside:
                yield text, True
            after_delimiter, inside = True, False
        if len(rest) > _LONGEST_PART + len(delimiter):
            done = len(rest) - len(delimiter) + 1
            yield part(rest[:done]), False
            rest, inside = rest[done:], True
    text = part(rest)
    if text or inside:
        yield text, True


def cut_before(parts: Iterable[Part], boundary: int) -> int:
    """Return how many characters of the documents train, when about ``boundary`` are to.

    A document across the boundary trains; the last one is cut there, after a line if it can be.
    """
    position = start = line_end = 0
    begins = True
    for text, ends in parts:
        if begins:
            start = line_end = position
            if start >= boundary:
                return start
        if (line := text.rfind("\n", 0, max(0, boundary - position))) >= 0:
            line_end = position + line + 1
        position += len(text)
        begins = ends
    if position <= boundary:
        return position
    return line_end if line_end > start else boundary


def parts_before(parts: Iterable[Part], cut: int) -> Iterator[Part]:
    """Yield what is before the character ``cut``, where a document ends."""
    if cut <= 0:
        return
    for text, ends in parts:
        if len(text) >= cut:
            yield text[:cut], True
            return
        yield text, ends
        cut -= len(text)


def parts_behind(parts: Iterable[Part], cut: int) -> Iterator[Part]:
    """Yield what is after the character ``cut``, where a document starts."""
    for text, ends in parts:
        if len(text) > max(cut, 0) or cut < 0:
            yield text[max(cut, 0) :], ends
            cut = -1
        else:
            cut -= len(text)
