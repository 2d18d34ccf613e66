"""The first documents of any data, for a trial: ``data.max_documents``."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

from llmforge.interfaces import Conversation, ExampleData


class LimitedData:
    """The first ``data.max_documents`` of the training split; other splits stay whole."""

    def __init__(self, data: Any, *, max_documents: int) -> None:
        self._data = data
        self._max = max_documents
        self.splits = data.splits
        self.description = f"{data.description}, first {max_documents} documents"
        self.resolution = getattr(data, "resolution", {})
        self.files = getattr(data, "files", ())
        self.labels = getattr(data, "labels", ())
        known = getattr(data, "characters", {})
        self.characters = {split: size for split, size in known.items() if split != "train"}
        name = f"{data.fingerprint}:{max_documents}"
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()

    def iter_text(self, split: str) -> Iterator[str]:
        """Yield documents as the wrapped data does, at most ``max_documents`` of ``train``."""
        documents: Iterator[str] = self._data.iter_text(split)
        return itertools.islice(documents, self._max) if split == "train" else documents


class LimitedParts(LimitedData):
    """Text whose documents may be longer than memory, cut as :class:`LimitedData` is."""

    def iter_parts(self, split: str) -> Iterator[tuple[str, bool]]:
        """Yield parts of documents as the wrapped data does."""
        parts: Iterator[tuple[str, bool]] = self._data.iter_parts(split)
        return _first(parts, self._max) if split == "train" else parts


def _first(parts: Iterator[tuple[str, bool]], documents: int) -> Iterator[tuple[str, bool]]:
    for text, ends in parts:
        yield text, ends
        documents -= ends
        if documents == 0:
            return


class LimitedExamples(LimitedData):
    """The first ``data.max_documents`` examples of the training split."""

    def __init__(self, data: ExampleData, *, max_documents: int) -> None:
        super().__init__(data, max_documents=max_documents)
        self.layout = data.layout

    def examples(self, split: str) -> Iterator[Conversation]:
        """Yield examples as the wrapped data does, at most ``max_documents`` of ``train``."""
        found: Iterator[Conversation] = self._data.examples(split)
        return itertools.islice(found, self._max) if split == "train" else found
