"""Writing one text after the other, with generators that know no continuous batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from llmforge.errors import ForgeError
from llmforge.interfaces import (
    Continuation,
    ContinuationUpdate,
    GenerationRequest,
    Generator,
)


class _GivenUp(Exception):
    """Leaves a generator whose text nobody wants any more."""


class OneAtATime:
    """Implements :class:`llmforge.interfaces.ContinuousBatch` over any generator.

    A step writes a whole text. ``pulse`` is called between its pieces, so that it can be
    cancelled.

    Args:
        build: returns a generator with other options.
    """

    def __init__(self, build: Callable[[Any], Generator]) -> None:
        self._build = build
        self._waiting: deque[Continuation] = deque()
        self._current: int | None = None
        self.pulse: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        """Return whether there is anything left to write."""
        return bool(self._waiting)

    def add(self, continuation: Continuation) -> None:
        """Take a continuation."""
        self._waiting.append(continuation)

    def cancel(self, key: int) -> None:
        """Give a continuation up."""
        if self._current == key:
            self._current = None
        self._waiting = deque(item for item in self._waiting if item.key != key)

    def step(self, report: Callable[[ContinuationUpdate], None]) -> None:
        """Write the next text."""
        asked = self._waiting.popleft()
        self._current = asked.key

        def on_text(index: int, piece: str) -> None:
            self.pulse()
            if self._current is None:
                raise _GivenUp
            if index == asked.ordinal:
                report(ContinuationUpdate(key=asked.key, text=piece))

        request = GenerationRequest(
            prompts=[asked.prompt],
            prompt_ids=[asked.prompt_ids],
            stop_ids=asked.stop_ids,
            samples=asked.ordinal + 1,
            seed=asked.seed,
            on_text=on_text,
            max_new_tokens=asked.max_new_tokens,
        )
        try:
            # the seed of a text is that of its place among those of its prompt
            done = self._build(asked.options).generate(request)[asked.ordinal]
        except _GivenUp:
            return
        except ForgeError as error:
            report(ContinuationUpdate(key=asked.key, error=error))
            return
        finally:
            self._current = None
        report(ContinuationUpdate(key=asked.key, tokens=done.tokens, finish=done.finish))
