"""The tokenizer ``hf``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl
from llmforge.interfaces import Data, TokenData, Tokenizer


class HuggingFace(Component, kind="tokenizer"):
    """A ready tokenizer in Hugging Face's format: GPT-2's 50,257 entries, for example.

    It needs a ``tokenizer.json``; ``tokenizer_config.json`` beside it, when there is one, names
    the end-of-text token. The run keeps a copy and does not need the source again.
    """

    requires = ("tokenizers", "huggingface_hub")
    supports: ClassVar[frozenset[str]] = frozenset({"no_text"})

    class Options(llmforge.Options):
        """Options of ``[tokenizer.hf]``."""

        source: Annotated[str, Field(min_length=1)]
        """A name on the hub (``openai-community/gpt2``), a folder, or a ``tokenizer.json``."""
        revision: Annotated[str, Field(min_length=1)] = "main"
        """Branch, tag or commit on the hub; a commit pins it."""
        end_of_text: str | None = None
        """The token put after each document; absent: what ``tokenizer_config.json`` says."""

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for a local source; the hub is asked when the tokenizer is built."""
        from llmforge_plugins.tokenizers._hf import local_problem

        del run
        problem = local_problem(self.options.source)
        if problem is None:
            return []
        return [Problem(key=f"tokenizer.{self.name}.source", message=problem)]

    @hookimpl
    def forge_build_tokenizer(self, run: RunContext, data: Data | TokenData) -> Tokenizer:
        """Load the tokenizer from a file, a folder or the hub."""
        from llmforge_plugins.tokenizers._hf import build

        del data
        return build(self.options, run)

    @hookimpl
    def forge_load_tokenizer(self, run: RunContext, directory: Path) -> Tokenizer:
        """Read back a saved tokenizer."""
        from llmforge_plugins.tokenizers._fast import FastTokenizer

        del run
        return FastTokenizer.load(directory)
