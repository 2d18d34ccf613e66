"""What a ``tokenizer`` component hands to the core."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Tokenizer(Protocol):
    """Turns text into token ids and back.

    Attributes:
        vocab_size: number of ids; every id is below it.
        eos_id: the end-of-text token, put after each document; None when there is none.
        fingerprint: a hash of the vocabulary and rules.
    """

    vocab_size: int
    eos_id: int | None
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without any special token."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, using several cores where that helps."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; special tokens become nothing."""
        ...

    def save(self, directory: Path) -> None:
        """Write everything :func:`forge_load_tokenizer` needs as files in ``directory``."""
        ...
