"""The tokenizer ``from-model``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl
from llmforge.interfaces import Data, TokenData, Tokenizer


class FromModel(Component, kind="tokenizer"):
    """The tokenizer that comes with a pre-trained model, with its chat template.

    It is the one at the ``path`` and ``revision`` of the recipe's model. The run keeps a copy and
    does not need the source again.
    """

    requires = ("tokenizers", "huggingface_hub")
    supports: ClassVar[frozenset[str]] = frozenset({"no_text", "from_model"})

    class Options(llmforge.Options):
        """Options of ``[tokenizer.from-model]``."""

        end_of_text: str | None = None
        """The token put after each document; absent: the model's own."""

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look whether the recipe's model is one that comes with a tokenizer."""
        from llmforge_plugins.tokenizers._from_model import model_table

        if model_table(run) is not None:
            return []
        return [
            Problem(
                key="tokenizer.name",
                message=f"the model '{run.config['model']['name']}' has no path, so no tokenizer "
                "comes with it",
                remedy="choose another tokenizer, such as bpe, or a pre-trained model",
            )
        ]

    @hookimpl
    def forge_build_tokenizer(self, run: RunContext, data: Data | TokenData) -> Tokenizer:
        """Load the model's tokenizer from its folder or the hub."""
        from llmforge_plugins.tokenizers._from_model import build

        del data
        return build(self.options, run)

    @hookimpl
    def forge_load_tokenizer(self, run: RunContext, directory: Path) -> Tokenizer:
        """Read back a saved tokenizer."""
        from llmforge_plugins.tokenizers._fast import FastTokenizer

        del run
        return FastTokenizer.load(directory)
