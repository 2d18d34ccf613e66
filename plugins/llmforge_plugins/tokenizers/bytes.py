"""The tokenizer ``bytes``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from llmforge import Component, RunContext, hookimpl
from llmforge.interfaces import Data, TokenData, Tokenizer


class Bytes(Component, kind="tokenizer"):
    """Every UTF-8 byte is a token, 256 is the end of text: nothing to train, nothing unknown."""

    supports: ClassVar[frozenset[str]] = frozenset({"no_text"})

    @hookimpl
    def forge_build_tokenizer(self, run: RunContext, data: Data | TokenData) -> Tokenizer:
        """Return the tokenizer; it is the same for every text."""
        from llmforge_plugins.tokenizers._bytes import ByteTokenizer

        del run, data
        return ByteTokenizer()

    @hookimpl
    def forge_load_tokenizer(self, run: RunContext, directory: Path) -> Tokenizer:
        """Read back a saved tokenizer."""
        from llmforge_plugins.tokenizers._bytes import ByteTokenizer

        del run
        return ByteTokenizer.load(directory)
