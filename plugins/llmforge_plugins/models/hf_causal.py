"""The model ``hf-causal``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmforge import Component, Problem, hookimpl
from llmforge.interfaces import LanguageModel, RunContext, Tokenizer
from llmforge_plugins._zoo import presets_of
from llmforge_plugins.models._hf_options import PretrainedOptions, source_problems


class HfCausal(Component, kind="model"):
    """A causal language model of Hugging Face ``transformers``: GPT-2, Llama, GPT-NeoX and others.

    Parameters have the names they have there. The loss never holds the logits of all positions,
    except for architectures that change logits after the output matrix.
    """

    requires = ("transformers", "huggingface_hub")
    supports = frozenset({"kv_cache", "segments"})

    class Options(PretrainedOptions):
        """Options of ``[model.hf-causal]``."""

    @classmethod
    def presets(cls, vocab_size: int) -> Mapping[str, Mapping[str, Any]]:
        """Return the published models it runs by their names of one word."""
        del vocab_size  # they come with their vocabulary
        return presets_of("hf-causal")

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for the model, at its architecture and at the longest sequence it can take."""
        if self.missing_packages():
            return []
        key = f"model.{self.name}"
        problems = source_problems(self.options, run, key=key)
        if not problems:
            from llmforge_plugins.models._hf_load import causal_problems

            problems = causal_problems(self.options, run, key=f"{key}.path")
        return problems

    @hookimpl
    def forge_build_model(self, run: RunContext, tokenizer: Tokenizer) -> LanguageModel:
        """Load the weights, or draw them; the embedding grows to the tokenizer's vocabulary."""
        from llmforge_plugins.models._hf_causal import build

        return build(self.options, run, vocab_size=tokenizer.vocab_size, name=self.name)
