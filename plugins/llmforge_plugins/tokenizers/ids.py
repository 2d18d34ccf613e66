"""The tokenizer ``ids``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from llmforge import Component, RunContext, hookimpl
from llmforge.errors import DataError
from llmforge.interfaces import TokenData, Tokenizer
from llmforge_plugins.tokenizers._saved import check_record, read_json, write_record

_TYPE = "ids"
_VOCABULARY = "vocabulary.json"


class Ids(Component, kind="tokenizer"):
    """No text at all: for data that is tokens already and whose tokenizer is not at hand.

    The vocabulary is what ``data.tokens.vocab_size`` says. Prompts are ids with spaces between
    them, and so are the texts that come out.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"no_text"})

    @hookimpl
    def forge_build_tokenizer(self, run: RunContext, data: TokenData) -> Tokenizer:
        """Return the vocabulary that the data names."""
        del run
        return build(data)

    @hookimpl
    def forge_load_tokenizer(self, run: RunContext, directory: Path) -> Tokenizer:
        """Read back a saved vocabulary."""
        del run
        return IdTokenizer.load(directory)


class IdTokenizer:
    """Reads and writes ids as numbers with spaces between them.

    Args:
        vocab_size: number of ids.
        eos_id: the id that ends a document, or None.
    """

    def __init__(self, vocab_size: int, *, eos_id: int | None) -> None:
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        self.fingerprint = f"ids-{vocab_size}-eos{eos_id}"

    @classmethod
    def load(cls, directory: Path) -> IdTokenizer:
        """Return the tokenizer that was saved in ``directory``.

        Raises:
            DataError: there is none, or it was changed.
        """
        check_record(directory, type_name=_TYPE)
        body = read_json(directory / _VOCABULARY)
        loaded = cls(body["vocab_size"], eos_id=body["eos_id"])
        check_record(directory, type_name=_TYPE, fingerprint=loaded.fingerprint)
        return loaded

    def encode(self, text: str) -> list[int]:
        """Return the ids in ``text``.

        Raises:
            DataError: it holds something else than ids of the vocabulary.
        """
        words = text.split()
        wrong = [word for word in words if not word.isdecimal() or int(word) >= self.vocab_size]
        if wrong:
            raise DataError(
                f"'{wrong[0]}' is not a token id below {self.vocab_size}",
                remedy="this run has no text: write ids with spaces between them",
            )
        return [int(word) for word in words]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids in each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the ids with a space before each; the end of text becomes nothing."""
        return "".join(f" {index}" for index in ids if index != self.eos_id)

    def save(self, directory: Path) -> None:
        """Write the vocabulary's size and the record."""
        body = {"vocab_size": self.vocab_size, "eos_id": self.eos_id}
        (directory / _VOCABULARY).write_text(json.dumps(body) + "\n", encoding="utf-8")
        write_record(directory, type_name=_TYPE, fingerprint=self.fingerprint)


def build(data: TokenData) -> IdTokenizer:
    """Return the vocabulary of ``data``.

    Raises:
        DataError: the data is text, or does not say how many ids there are.
    """
    if not isinstance(data, TokenData):
        raise DataError(
            "tokenizer 'ids' is for data that is tokens already",
            remedy="choose another tokenizer, such as bpe",
        )
    if data.vocab_size is None:
        raise DataError(
            "nothing says how many token ids there are",
            remedy="set data.tokens.vocab_size, or use the tokenizer of the tokens (hf)",
        )
    return IdTokenizer(data.vocab_size, eos_id=data.eos_id)
