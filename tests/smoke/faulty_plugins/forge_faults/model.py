"""The model ``faulty``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmforge import Component, Options, hookimpl
from llmforge.interfaces import LanguageModel, RunContext, Tokenizer


class Faulty(Component, kind="model"):
    """A tiny model that yields NaN or pretends to run out of memory.

    ``FAULT_NAN_AT`` is the number of the training micro-batch whose loss is NaN;
    ``FAULT_MEMORY`` is the largest number of sequences that fit once ``FAULT_MEMORY_FROM``
    micro-batches were computed.
    """

    class Options(Options):
        """Options of ``[model.faulty]``."""

        context: Annotated[int, Field(gt=0)] = 32
        """Longest sequence in tokens."""

    @hookimpl
    def forge_build_model(self, run: RunContext, tokenizer: Tokenizer) -> LanguageModel:
        """Build the model; faults are chosen by the environment."""
        del run
        from forge_faults._model import FaultyModel

        return FaultyModel(tokenizer.vocab_size, context=self.options.context)
