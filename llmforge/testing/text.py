"""A tokenizer and data small enough to test other components with; no package is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TEXTS: Mapping[str, Sequence[str]] = {
    "train": (
        "The lighthouse stood at the end of the pier. Every evening its lamp was lit.\n",
        "A river begins as a spring. It gathers streams on its way to the sea.\n",
        "Bees dance to tell each other where the flowers are.\n",
    ),
    "validation": ("The spring feeds the river, and the river feeds the sea.\n",),
}


class TinyTokenizer:
    """UTF-8 bytes, and one id for the end of a text."""

    vocab_size = 257
    eos_id: int | None = 256
    fingerprint = hashlib.sha256(b"llmforge.testing.TinyTokenizer 1").hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the bytes of ``text``."""
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the bytes of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; incomplete characters become U+FFFD."""
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def save(self, directory: Path) -> None:
        """Write nothing but a marker: there is nothing to learn."""
        (directory / "tiny.txt").write_text("bytes\n", encoding="utf-8")


class TinyData:
    """Documents held in memory.

    Args:
        texts: documents by split; a few short sentences when absent.
    """

    def __init__(self, texts: Mapping[str, Sequence[str]] = TEXTS) -> None:
        self._texts = {split: tuple(documents) for split, documents in texts.items()}
        self.splits: Sequence[str] = tuple(self._texts)
        self.fingerprint = hashlib.sha256(repr(self._texts).encode()).hexdigest()
        self.description = "a few sentences in memory"

    def iter_text(self, split: str) -> Iterator[str]:
        """Yield the documents of ``split``."""
        return iter(self._texts[split])
