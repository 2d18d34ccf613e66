"""The model ``hf-seq2seq``."""

from __future__ import annotations

from typing import Any

from llmforge import Problem, hookimpl
from llmforge.interfaces import RunContext, Tokenizer
from llmforge_plugins.models._hf_options import PretrainedModel, PretrainedOptions


class HfSeq2Seq(PretrainedModel, kind="model"):
    """An encoder-decoder of Hugging Face ``transformers``: T5, CodeT5, BART and others.

    It reads a whole source and writes a target. Parameters have the names they have there.
    """

    zoo_name = "hf-seq2seq"
    supports = frozenset({"seq2seq"})

    class Options(PretrainedOptions):
        """Options of ``[model.hf-seq2seq]``."""

    def wrong_model(self, run: RunContext, *, key: str) -> list[Problem]:
        """Return why the model is not of this kind."""
        from llmforge_plugins.models._hf_seq2seq import problems_of

        return problems_of(self.options, run, key=f"{key}.path")

    @hookimpl
    def forge_build_model(self, run: RunContext, tokenizer: Tokenizer) -> Any:
        """Load the weights, or draw them; the embedding grows to the tokenizer's vocabulary."""
        from llmforge_plugins.models._hf_seq2seq import build

        return build(self.options, run, vocab_size=tokenizer.vocab_size, name=self.name)
