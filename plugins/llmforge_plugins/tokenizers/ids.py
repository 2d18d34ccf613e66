"""The tokenizer ``ids``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from llmforge import Component, RunContext, hookimpl
from llmforge.interfaces import TokenData, Tokenizer


class Ids(Component, kind="tokenizer"):
    """No text at all: for data that is tokens already and whose tokenizer is not at hand.

    The vocabulary is what ``data.tokens.vocab_size`` says. Prompts are ids with spaces between
    them, and so are the texts that come out.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"no_text"})

    @hookimpl
    def forge_build_tokenizer(self, run: RunContext, data: TokenData) -> Tokenizer:
        """Return the vocabulary that the data names."""
        from llmforge_plugins.tokenizers._ids import build

        del run
        return build(data)

    @hookimpl
    def forge_load_tokenizer(self, run: RunContext, directory: Path) -> Tokenizer:
        """Read back a saved vocabulary."""
        from llmforge_plugins.tokenizers._ids import IdTokenizer

        del run
        return IdTokenizer.load(directory)
