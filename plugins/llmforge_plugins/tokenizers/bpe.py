"""The tokenizer ``bpe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

import llmforge
from llmforge import Component, RunContext, hookimpl
from llmforge.interfaces import Data, Tokenizer


class Bpe(Component, kind="tokenizer"):
    """Byte-level byte-pair encoding, trained on the training split.

    Byte pairs after Sennrich et al. (2016), over bytes as in GPT-2 (Radford et al. 2019), so that
    any text can be encoded and decodes to itself. Trained by Hugging Face ``tokenizers``; the
    result is kept in the cache.
    """

    requires = ("tokenizers",)

    class Options(llmforge.Options):
        """Options of ``[tokenizer.bpe]``."""

        vocab_size: Annotated[int, Field(ge=257)] = 4096
        """Ids at most: 256 bytes, the end-of-text token, and merges as far as the text has any."""
        min_frequency: Annotated[int, Field(ge=1)] = 2
        """How often a pair must occur to be merged."""
        end_of_text: Annotated[str, Field(min_length=1)] = "<|endoftext|>"
        """The token put after each document."""

    @hookimpl
    def forge_build_tokenizer(self, run: RunContext, data: Data) -> Tokenizer:
        """Train on ``data``, or take what was trained on the same text with the same options."""
        from llmforge_plugins.tokenizers._bpe import build

        return build(self.options, run, data)

    @hookimpl
    def forge_load_tokenizer(self, run: RunContext, directory: Path) -> Tokenizer:
        """Read back a saved tokenizer."""
        from llmforge_plugins.tokenizers._fast import FastTokenizer

        del run
        return FastTokenizer.load(directory)
