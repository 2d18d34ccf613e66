"""The model ``hf-encoder``."""

from __future__ import annotations

from typing import Any

from llmforge import Problem, hookimpl
from llmforge.interfaces import RunContext, Tokenizer
from llmforge_plugins.models._hf_options import PretrainedModel, PretrainedOptions


class HfEncoder(PretrainedModel, kind="model"):
    """An encoder of Hugging Face ``transformers``: CodeBERT, RoBERTa, BERT and others.

    The objective says what for: ``mlm`` trains its head for hidden tokens, ``classify`` a new one
    for the labels of the data.
    """

    zoo_name = "hf-encoder"
    supports = frozenset({"mlm", "classify"})

    class Options(PretrainedOptions):
        """Options of ``[model.hf-encoder]``."""

    def wrong_model(self, run: RunContext, *, key: str) -> list[Problem]:
        """Return why the model is not of this kind."""
        from llmforge_plugins.models._hf_encoder import problems_of

        return problems_of(self.options, run, key=key)

    @hookimpl
    def forge_build_model(self, run: RunContext, tokenizer: Tokenizer) -> Any:
        """Load the weights, or draw them; a new head is drawn."""
        from llmforge_plugins.models._hf_encoder import build

        return build(self.options, run, vocab_size=tokenizer.vocab_size, name=self.name)
