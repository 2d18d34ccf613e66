"""The model ``hf-encoder``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmforge import Component, Problem, hookimpl
from llmforge.interfaces import RunContext, Tokenizer
from llmforge_plugins._zoo import presets_of
from llmforge_plugins.models._hf_options import PretrainedOptions, source_problems


class HfEncoder(Component, kind="model"):
    """An encoder of Hugging Face ``transformers``: CodeBERT, RoBERTa, BERT and others.

    The objective says what for: ``mlm`` trains its head for hidden tokens, ``classify`` a new one
    for the labels of the data.
    """

    requires = ("transformers", "huggingface_hub")
    supports = frozenset({"mlm", "classify"})

    class Options(PretrainedOptions):
        """Options of ``[model.hf-encoder]``."""

    @classmethod
    def presets(cls, vocab_size: int) -> Mapping[str, Mapping[str, Any]]:
        """Return the published models it runs by their names of one word."""
        del vocab_size  # they come with their vocabulary
        return presets_of("hf-encoder")

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for the model, at its architecture and at the longest sequence it can take."""
        if self.missing_packages():
            return []
        key = f"model.{self.name}"
        problems = source_problems(self.options, run, key=key)
        if not problems:
            from llmforge_plugins.models._hf_encoder import problems_of

            problems = problems_of(self.options, run, key=key)
        return problems

    @hookimpl
    def forge_build_model(self, run: RunContext, tokenizer: Tokenizer) -> Any:
        """Load the weights, or draw them; a new head is drawn."""
        from llmforge_plugins.models._hf_encoder import build

        return build(self.options, run, vocab_size=tokenizer.vocab_size, name=self.name)
