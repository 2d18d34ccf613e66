"""``sampler``: continues prompts token by token, greedily or by drawing from the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

import llmforge
from llmforge import SAFE, Component, RunContext, hookimpl

if TYPE_CHECKING:
    from llmforge.interfaces import Generator, LanguageModel, Tokenizer


class Sampler(Component, kind="generation"):
    """Continues prompts: greedy, temperature, top-k, top-p, min-p, repetition penalty, stops.

    They act in this order: presence, frequency and repetition penalty, temperature, top-k, top-p,
    min-p. Equal seeds give equal texts, and a text does not depend on what else is in its batch.
    """

    supports = frozenset(
        {"batches", "streaming", "kv_cache", "token_prompts", "continuous_batching"}
    )

    class Options(llmforge.Options):
        """``[generation.sampler]``."""

        max_new_tokens: Annotated[int, SAFE, Field(gt=0)] = 100
        """Longest continuation, in tokens."""
        temperature: Annotated[float, SAFE, Field(ge=0)] = 0.8
        """Divides the logits: below 1 is more predictable, above 1 more varied; 0 is greedy."""
        top_k: Annotated[int, SAFE, Field(ge=0)] = 0
        """Draw from this many most likely tokens only; 0 turns it off."""
        top_p: Annotated[float, SAFE, Field(gt=0, le=1)] = 1.0
        """Draw from the fewest tokens that hold this much probability; 1 turns it off."""
        min_p: Annotated[float, SAFE, Field(ge=0, lt=1)] = 0.0
        """Draw from tokens at least this likely relative to the likeliest; 0 turns it off."""
        repetition_penalty: Annotated[float, SAFE, Field(gt=0)] = 1.0
        """Above 1 makes tokens of the prompt and of the text so far less likely; 1 is off."""
        presence_penalty: Annotated[float, SAFE, Field(ge=-2, le=2)] = 0.0
        """Taken from the logits of tokens that were generated before; 0 is off."""
        frequency_penalty: Annotated[float, SAFE, Field(ge=-2, le=2)] = 0.0
        """Taken from the logits of a token as often as it was generated before; 0 is off."""
        stop: Annotated[list[str], SAFE] = Field(default_factory=list)
        """Texts that end a continuation; they are cut off."""
        greedy: Annotated[bool, SAFE] = False
        """Always take the likeliest token."""
        lookup: Annotated[int, SAFE, Field(ge=0, le=64)] = 0
        """Propose up to this many tokens from earlier text and check them in one pass; 0 is off."""

        @field_validator("stop")
        @classmethod
        def _not_empty(cls, value: list[str]) -> list[str]:
            if "" in value:
                raise ValueError("a stop text must not be empty")
            return value

    @hookimpl
    def forge_build_generator(
        self, run: RunContext, model: LanguageModel, tokenizer: Tokenizer
    ) -> Generator:
        """Build the generator; see :class:`llmforge.interfaces.Generator`."""
        from llmforge_plugins.generation._sampler import TextSampler

        return TextSampler(self.options, model=model, tokenizer=tokenizer, notice=run.notice)
