"""What a ``generation`` component hands to the core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One call of a generator.

    Attributes:
        prompts: texts to continue, generated as one batch.
        prompt_ids: the tokens of each prompt where they are not simply those of its text, as of a
            conversation laid out by its template.
        stop_ids: tokens that end a continuation as the end-of-text token does.
        samples: continuations per prompt.
        seed: equal seeds give equal texts on the same device and precision.
        on_text: called with (index of the completion, new piece of text) while generating.
        max_new_tokens: longest continuation in tokens, instead of the component's option. Only a
            component that says ``supports = {"token_prompts"}`` must heed it, ``greedy``,
            ``prompt_ids`` and ``stop_ids``.
        greedy: always take the likeliest token, whatever the component's options say.
    """

    prompts: Sequence[str]
    prompt_ids: Sequence[Sequence[int]] | None = None
    stop_ids: frozenset[int] = frozenset()
    samples: int = 1
    seed: int = 0
    on_text: Callable[[int, str], None] | None = None
    max_new_tokens: int | None = None
    greedy: bool = False


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One generated continuation; ``text`` is without the prompt.

    ``finish`` is ``length``, ``eos`` (the end-of-text token, or one of ``stop_ids``) or ``stop`` (a
    stop string); neither is part of ``text``.
    """

    prompt: str
    text: str
    tokens: int
    finish: str
    seconds: float


class Generator(Protocol):
    """Continues prompts with the model it was built over."""

    def generate(self, request: GenerationRequest) -> list[Completion]:
        """Return ``samples`` completions for each prompt, prompt by prompt.

        Raises:
            UsageError: a prompt cannot be continued (for example it is empty and the tokenizer
                has no end-of-text token to start from).
        """
        ...
