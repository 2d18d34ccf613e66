"""Text in pieces that are short enough to be encoded at once, however long a document is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

PIECE_CHARACTERS = 1 << 14
BATCH_CHARACTERS = 1 << 21


@dataclass(frozen=True)
class Piece:
    """A document, or a part of one that is too long to be encoded at once."""

    text: str
    ends_document: bool


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place between two pieces of a split.

    Attributes:
        documents: that end before it.
        characters: between the end of the last of them and the place.
    """

    documents: int = 0
    characters: int = 0

    def moved(self, *, documents: int, characters: int, n_characters: int) -> Place:
        """Return the place ``n_characters`` further.

        Args:
            documents: that end on the way.
            characters: after the last of them.
            n_characters: on the whole way.
        """
        if not documents:
            return Place(documents=self.documents, characters=self.characters + n_characters)
        return Place(documents=self.documents + documents, characters=characters)


def parts_of(data: Any, split: str) -> Iterator[tuple[str, bool]]:
    """Yield the text of a split in parts, each with whether a document ends with it."""
    if hasattr(data, "iter_parts"):
        yield from data.iter_parts(split)
    else:
        for document in data.iter_text(split):
            yield document, True


def parts_after(parts: Iterable[tuple[str, bool]], place: Place) -> Iterator[tuple[str, bool]]:
    """Yield the parts behind ``place``, which is between two pieces of them."""
    documents, characters = place.documents, place.characters
    for text, ends in parts:
        if documents:
            documents -= ends
        elif characters and characters >= len(text) and not ends:
            characters -= len(text)
        else:
            yield text[characters:], ends
            characters = 0


def batches_of_pieces(documents: Iterable[str]) -> Iterator[list[Piece]]:
    """Yield whole documents in batches as :func:`batches_of_parts` does."""
    return batches_of_parts((document, True) for document in documents)


def batches_of_parts(parts: Iterable[tuple[str, bool]]) -> Iterator[list[Piece]]:
    """Yield the documents in batches of about two million characters.

    A document longer than ``PIECE_CHARACTERS`` is cut before a space that follows a letter or
    digit (where there is none, anywhere), so that a file of gigabytes neither runs on one core nor
    holds a signal back. Byte-level tokenizers never join across such a place: the tokens are those
    of the whole document. Where it is cut depends on the text alone, not on the parts it comes in.
    """
    batch: list[Piece] = []
    size = 0
    for piece in _pieces(parts):
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pieces(parts: Iterable[tuple[str, bool]]) -> Iterator[Piece]:
    rest = ""
    for part, ends in parts:
        text = rest + part if rest else part
        start = 0
        while len(text) - start > PIECE_CHARACTERS:
            end = _boundary(text, start, start + PIECE_CHARACTERS)
            yield Piece(text[start:end], ends_document=False)
            start = end
        rest = text[start:]
        if ends:
            yield Piece(rest, ends_document=True)
            rest = ""
    assert not rest, "the last document of a split has no end"


def _boundary(document: str, start: int, limit: int) -> int:
    space = document.rfind(" ", start + 1, limit)
    while space > start and not document[space - 1].isalnum():
        space = document.rfind(" ", start + 1, space)
    return space if space > start else limit
