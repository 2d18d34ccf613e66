"""The model ``mingru``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import llmforge
from llmforge import Component, hookimpl
from pydantic import Field

if TYPE_CHECKING:
    from llmforge.interfaces import LanguageModel, Tokenizer

Positive = Annotated[int, Field(gt=0)]


class MinGru(Component, kind="model"):
    """A recurrent language model of minimal gated units (Feng et al. 2024, arXiv:2410.01201).

    A minGRU's gate looks at the input only, not at the state, which leaves a recurrence that is
    linear in the state.
    """

    supports = frozenset({"kv_cache"})

    class Options(llmforge.Options):
        """Options of ``[model.mingru]``."""

        context: Positive = 128
        """Sequence length in training; the state itself has no limit."""
        layers: Positive = 2
        """Blocks of a minGRU and a feed-forward part."""
        width: Positive = 128
        """Size of the residual stream and of the states."""

    @hookimpl
    def forge_build_model(self, tokenizer: Tokenizer) -> LanguageModel:
        """Build it for the tokenizer's vocabulary."""
        from llmforge_hello._mingru import MinGruModel  # needs torch, so not at the top

        options = self.options
        return MinGruModel(
            tokenizer.vocab_size,
            context=options.context,
            layers=options.layers,
            width=options.width,
        )
