"""Text in files: its hash, its length, its lines exactly as they are."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from pathlib import Path

from llmforge.errors import DataError
from llmforge.interfaces import Progress
from llmforge_plugins.data._compressed import blocks

_MARKS = (
    # The longest first: UTF-32 begins as UTF-16 does.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def scan_text(path: Path, encoding: str, *, moved: Progress = lambda _: None) -> tuple[str, int]:
    """Return the SHA-256 of a text and its length in characters; ``moved`` is given bytes read.

    The hash is of the text's bytes unpacked and without a byte order mark, and of an encoding that
    only the mark tells; so a file has the hash of its compressed copy.

    Raises:
        DataError: the file cannot be read or is not in that encoding.
    """
    content, found = _marked(path, encoding, moved)
    digest, characters = hashlib.sha256(), 0
    if codecs.lookup(found) != codecs.lookup(encoding):
        digest.update(found.encode())
    decoder = codecs.getincrementaldecoder(found)()
    try:
        for block in content:
            digest.update(block)
            characters += len(decoder.decode(block))
        characters += len(decoder.decode(b"", final=True))
    except UnicodeDecodeError as error:
        raise _not_in(path, found, error) from error
    return digest.hexdigest(), characters


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    r"""Yield the lines of a file with their ends as they are; only ``\n`` ends a line.

    Compressed files are unpacked, and a byte order mark is no part of the text: where the
    encoding is one of Unicode's, the mark tells which.

    Raises:
        DataError: the file cannot be read or is not in that encoding.
    """
    parts: list[str] = []
    for block in read_blocks(path, encoding):
        *lines, rest = block.split("\n")
        for line in lines:
            if parts:
                yield "".join((*parts, line, "\n"))
                parts = []
            else:
                yield f"{line}\n"
        if rest:
            parts.append(rest)
    if last := "".join(parts):
        yield last


def read_blocks(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Yield the text of a file in blocks of any length; see :func:`read_lines`.

    Raises:
        DataError: the file cannot be read or is not in that encoding.
    """
    content, found = _marked(path, encoding, lambda _: None)
    decoder = codecs.getincrementaldecoder(found)()
    try:
        for block in content:
            yield decoder.decode(block)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_in(path, found, error) from error


def _marked(path: Path, encoding: str, moved: Progress) -> tuple[Iterator[bytes], str]:
    """Return a file's bytes after a byte order mark, and the encoding the mark tells."""
    content = blocks(path, moved=moved)
    head = b""
    while len(head) < len(codecs.BOM_UTF32_LE) and (block := next(content, b"")):
        head += block
    if codecs.lookup(encoding).name.startswith("utf"):
        for mark, name in _MARKS:
            if head.startswith(mark):
                head, encoding = head[len(mark) :], name
                break
    return _after(head, content), encoding


def _after(head: bytes, content: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from content


def _not_in(path: Path, encoding: str, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{path} is not {encoding} text: {error.reason}",
        remedy="convert the file; [data.text] has the option encoding for text that is not UTF-8",
    )
