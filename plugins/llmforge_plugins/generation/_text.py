"""From tokens to text while they arrive: whole characters only, and never past a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_OVERLAP = 4
"""Tokens decoded again before new ones, for decoders that look at the neighbour to the left."""
_WINDOW = 24
"""Tokens decoded at once before the window moves on."""


class TextStream:
    """Text of a growing continuation.

    A character split over several tokens is held back until it is whole, and text that may be
    the beginning of a stop text until it is known not to be.

    Args:
        decode: the tokenizer's ``decode``.
        prompt: token ids the continuation follows.
        stop: texts that end it.
        on_text: told each new piece of text.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        prompt: Sequence[int],
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self.text = ""
        self.stopped = False
        self._decode = decode
        self._stop = tuple(stop)
        self._longest = max(map(len, stop), default=0)
        self._on_text = on_text
        self._told = 0
        self._window = list(prompt[-_OVERLAP:])
        self._settled = len(decode(self._window))

    def push(self, tokens: Sequence[int]) -> None:
        """Take the next tokens; sets ``stopped`` when a stop text is complete."""
        self._window.extend(tokens)
        decoded = self._decode(self._window)
        whole = len(decoded) - decoded.endswith(_REPLACEMENT)
        self._append(decoded[self._settled : whole])
        self._settled = max(self._settled, whole)
        if len(self._window) >= _WINDOW and whole == len(decoded):
            self._window = self._window[-_OVERLAP:]
            self._settled = len(self._decode(self._window))

    def finish(self) -> None:
        """Release what was held back: no more tokens come."""
        if not self.stopped:
            self._append(self._decode(self._window)[self._settled :])
        if not self.stopped:
            self._tell(len(self.text))

    def _append(self, piece: str) -> None:
        if not piece:
            return
        begin = max(0, len(self.text) - self._longest + 1)
        self.text += piece
        found = [at for stop in self._stop if (at := self.text.find(stop, begin)) >= 0]
        if found:
            self.stopped = True
            self.text = self.text[: min(found)]
            self._tell(len(self.text))
        else:
            self._tell(len(self.text) - self._held())

    def _held(self) -> int:
        """Return how many characters at the end may begin a stop text."""
        for count in range(min(self._longest - 1, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-count:]) for stop in self._stop):
                return count
        return 0

    def _tell(self, end: int) -> None:
        if self._on_text is not None and end > self._told:
            self._on_text(self.text[self._told : end])
        self._told = max(self._told, end)
