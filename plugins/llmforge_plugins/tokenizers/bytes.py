"""The tokenizer ``bytes``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from llmforge import Component, RunContext, hookimpl
from llmforge.interfaces import Data, TokenData, Tokenizer
from llmforge_plugins.tokenizers._saved import check_record, write_record

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TYPE = "bytes"
END = "<|endoftext|>"
"""What templates call the end of text."""


class Bytes(Component, kind="tokenizer"):
    """Every UTF-8 byte is a token, 256 is the end of text: nothing to train, nothing unknown."""

    supports: ClassVar[frozenset[str]] = frozenset({"no_text"})

    @hookimpl
    def forge_build_tokenizer(self, run: RunContext, data: Data | TokenData) -> Tokenizer:
        """Return the tokenizer; it is the same for every text."""
        del run, data
        return ByteTokenizer()

    @hookimpl
    def forge_load_tokenizer(self, run: RunContext, directory: Path) -> Tokenizer:
        """Read back a saved tokenizer."""
        del run
        return ByteTokenizer.load(directory)


class ByteTokenizer:
    """Ids 0 to 255 are the bytes of UTF-8, 256 is the end of text."""

    vocab_size = 257
    eos_id: int | None = 256
    fingerprint = "bytes-utf8-eos256"
    eos_token: str | None = END
    bos_token: str | None = None
    chat_template: str | None = None
    mask_token: str | None = None
    special_tokens: Mapping[str, int] = MappingProxyType({END: 256})

    @classmethod
    def load(cls, directory: Path) -> ByteTokenizer:
        """Return the tokenizer that was saved in ``directory``.

        Raises:
            DataError: there is none.
        """
        check_record(directory, type_name=_TYPE, fingerprint=cls.fingerprint)
        return cls()

    def encode(self, text: str) -> list[int]:
        """Return the bytes of ``text``."""
        return list(text.encode("utf-8"))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the bytes of each text."""
        return [self.encode(text) for text in texts]

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Return the bytes of each text as an array."""
        import numpy as np

        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def encode_spans(
        self, text: str, *, special: bool
    ) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        """Return the bytes of ``text`` and the character that each is of."""
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        position = 0
        parts = re.split(f"({re.escape(END)})", text) if special else [text]
        for part in parts:
            if special and part == END:
                ids.append(256)
                spans.append((position, position + len(part)))
                position += len(part)
                continue
            for character in part:
                encoded = character.encode("utf-8")
                ids += encoded
                spans += [(position, position + 1)] * len(encoded)
                position += 1
        return ids, spans

    def encode_whole(self, text: str, pair: str | None = None) -> Sequence[int]:
        """Return the bytes of a text, or of two with an end of text between them."""
        return self.encode(text) + ([] if pair is None else [256, *self.encode(pair)])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that are no UTF-8 become the replacement character."""
        return bytes(index for index in ids if index < 256).decode("utf-8", errors="replace")

    def save(self, directory: Path) -> None:
        """Write the record; there is nothing else to keep."""
        write_record(directory, type_name=_TYPE, fingerprint=self.fingerprint)

    def save_hugging_face(self, directory: Path) -> None:
        """Write the files that ``AutoTokenizer`` reads: a byte-level BPE without any merge."""
        from llmforge_plugins.tokenizers._byte_level import byte_level
        from llmforge_plugins.tokenizers._fast import save_for_transformers

        save_for_transformers(directory, byte_level(END), {"eos_token": END})
