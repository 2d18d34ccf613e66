"""Training on the first documents only: ``data.max_documents``."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

from llmforge.interfaces import Data


class LimitedData:
    """The first documents of the training split of ``data``; other splits stay whole."""

    def __init__(self, data: Data, *, max_documents: int) -> None:
        self._data = data
        self._max = max_documents
        self.splits = data.splits
        self.description = f"{data.description}, first {max_documents} documents"
        self.resolution = getattr(data, "resolution", {})
        self.files = getattr(data, "files", ())
        known = getattr(data, "characters", {})
        self.characters = {split: size for split, size in known.items() if split != "train"}
        name = f"{data.fingerprint}:{max_documents}"
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()

    def iter_text(self, split: str) -> Iterator[str]:
        """Yield documents as the wrapped data does, at most ``max_documents`` of ``train``."""
        documents = self._data.iter_text(split)
        return itertools.islice(documents, self._max) if split == "train" else documents
