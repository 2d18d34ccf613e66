"""The model ``hf-causal``."""

from __future__ import annotations

from llmforge import Problem, hookimpl
from llmforge.interfaces import LanguageModel, RunContext, Tokenizer
from llmforge_plugins.models._hf_options import PretrainedModel, PretrainedOptions


class HfCausal(PretrainedModel, kind="model"):
    """A causal language model of Hugging Face ``transformers``: GPT-2, Llama, GPT-NeoX and others.

    Parameters have the names they have there. The loss never holds the logits of all positions,
    except for architectures that change logits after the output matrix.
    """

    zoo_name = "hf-causal"
    supports = frozenset({"kv_cache", "segments", "sequence_log_probs"})

    class Options(PretrainedOptions):
        """Options of ``[model.hf-causal]``."""

    def wrong_model(self, run: RunContext, *, key: str) -> list[Problem]:
        """Return why the model is not of this kind."""
        from llmforge_plugins.models._hf_load import causal_problems

        return causal_problems(self.options, run, key=f"{key}.path")

    @hookimpl
    def forge_build_model(self, run: RunContext, tokenizer: Tokenizer) -> LanguageModel:
        """Load the weights, or draw them; the embedding grows to the tokenizer's vocabulary."""
        from llmforge_plugins.models._hf_causal import build

        return build(self.options, run, vocab_size=tokenizer.vocab_size, name=self.name)
