"""Grouping documents for the tokenizer: large enough to be fast, small enough to be stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PIECE_CHARACTERS = 1 << 14
BATCH_CHARACTERS = 1 << 21


@dataclass(frozen=True)
class Piece:
    """A document, or a part of one that is too long to be encoded at once."""

    text: str
    ends_document: bool


def batches_of_pieces(documents: Iterable[str]) -> Iterator[list[Piece]]:
    """Yield the documents in batches of about two million characters.

    A document longer than ``PIECE_CHARACTERS`` is cut before a space that follows a letter or
    digit (where there is none, anywhere), so that a file of gigabytes neither runs on one core nor
    holds a signal back. Byte-level tokenizers never join across such a place: the tokens are those
    of the whole document.
    """
    batch: list[Piece] = []
    size = 0
    for document in documents:
        for piece in _cut(document):
            batch.append(piece)
            size += len(piece.text)
            if size >= BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _cut(document: str) -> Iterator[Piece]:
    start = 0
    while len(document) - start > PIECE_CHARACTERS:
        end = _boundary(document, start, start + PIECE_CHARACTERS)
        yield Piece(document[start:end], ends_document=False)
        start = end
    yield Piece(document[start:], ends_document=True)


def _boundary(document: str, start: int, limit: int) -> int:
    space = document.rfind(" ", start + 1, limit)
    while space > start and not document[space - 1].isalnum():
        space = document.rfind(" ", start + 1, space)
    return space if space > start else limit
