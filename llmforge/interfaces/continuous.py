"""What a ``generation`` component may offer besides: texts that join and leave between tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmforge.errors import ForgeError


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """One text to be written.

    It is that of a :class:`llmforge.interfaces.GenerationRequest` with the same prompt, seed and
    options, whatever else is written at the same time.

    Attributes:
        key: names it in what is reported.
        prompt: the text that is continued.
        prompt_ids: its tokens, at least one; with ``max_new_tokens`` they fit the context.
        options: the component's options.
        max_new_tokens: longest continuation in tokens, instead of the option.
        stop_ids: tokens that end it as the end-of-text token does.
        seed: of the request.
        ordinal: which continuation of the same prompt it is.
        logprobs: how many of the likeliest tokens are reported with each token; None: not even
            the token's own probability.
        logit_bias: what is added to the logits of some tokens.
    """

    key: int
    prompt: str
    prompt_ids: Sequence[int]
    options: Any
    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    seed: int = 0
    ordinal: int = 0
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TokenScore:
    """A token that was chosen, and how likely the model held it before any option acted.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability.
        top: (id, logarithm) of the likeliest tokens, from the likeliest on.
    """

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, kw_only=True)
class ContinuationUpdate:
    """What is new of one continuation.

    Attributes:
        key: of the continuation.
        text: the piece of text that can be shown now; often empty.
        tokens: how many tokens were generated so far, without one that ended it.
        scores: the tokens since the last update, where they were asked for.
        reused: how many tokens of the prompt were not computed, as an earlier prompt began so.
        finish: as in :class:`llmforge.interfaces.Completion`; None while it is being written.
        error: why it ended without a finish.
    """

    key: int
    text: str = ""
    tokens: int = 0
    scores: Sequence[TokenScore] = ()
    reused: int = 0
    finish: str | None = None
    error: ForgeError | None = None


class ContinuousBatch(Protocol):
    """Writes several continuations at once. Used by one thread."""

    def add(self, continuation: Continuation) -> None:
        """Take a continuation; it joins the others at a later step."""
        ...

    def cancel(self, key: int) -> None:
        """Give a continuation up, if it is still there; nothing more is reported of it."""
        ...

    def step(self, report: Callable[[ContinuationUpdate], None]) -> None:
        """Write at most one more token of each that has joined, and let some join."""
        ...

    @property
    def busy(self) -> bool:
        """Return whether there is anything left to write."""
        ...


class ContinuousGenerator(Protocol):
    """A generator of a component that says ``supports = {"continuous_batching"}``."""

    def new_batch(self, *, rows: int, prefix_tokens: int) -> ContinuousBatch | None:
        """Return an empty batch; None when the model does not permit it.

        Args:
            rows: how many continuations are written at once at most; others wait.
            prefix_tokens: how many tokens of earlier prompts are kept for those that begin
                with them, at most.
        """
        ...
