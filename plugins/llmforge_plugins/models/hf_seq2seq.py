"""The model ``hf-seq2seq``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmforge import Component, Problem, hookimpl
from llmforge.interfaces import RunContext, Tokenizer
from llmforge_plugins._zoo import presets_of
from llmforge_plugins.models._hf_options import PretrainedOptions, source_problems


class HfSeq2Seq(Component, kind="model"):
    """An encoder-decoder of Hugging Face ``transformers``: T5, CodeT5, BART and others.

    It reads a whole source and writes a target. Parameters have the names they have there.
    """

    requires = ("transformers", "huggingface_hub")
    supports = frozenset({"seq2seq"})

    class Options(PretrainedOptions):
        """Options of ``[model.hf-seq2seq]``."""

    @classmethod
    def presets(cls, vocab_size: int) -> Mapping[str, Mapping[str, Any]]:
        """Return the published models it runs by their names of one word."""
        del vocab_size  # they come with their vocabulary
        return presets_of("hf-seq2seq")

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for the model, at its architecture and at the longest sequence it can take."""
        if self.missing_packages():
            return []
        key = f"model.{self.name}"
        problems = source_problems(self.options, run, key=key)
        if not problems:
            from llmforge_plugins.models._hf_seq2seq import problems_of

            problems = problems_of(self.options, run, key=f"{key}.path")
        return problems

    @hookimpl
    def forge_build_model(self, run: RunContext, tokenizer: Tokenizer) -> Any:
        """Load the weights, or draw them; the embedding grows to the tokenizer's vocabulary."""
        from llmforge_plugins.models._hf_seq2seq import build

        return build(self.options, run, vocab_size=tokenizer.vocab_size, name=self.name)
