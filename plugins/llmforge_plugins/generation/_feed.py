"""Feeding tokens to a model: with a cache of keys and values, or by computing everything again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

PREFILL_LOGITS = 1 << 24
"""Most logits computed at once while a prompt is read (64 MiB in fp32)."""


class Feed(Protocol):
    """A model that is being read a growing window of tokens per row.

    Attributes:
        apart: what is generated is not part of the window: an encoder has read that, and a decoder
            begins with nothing.
    """

    apart: bool

    def start(self, windows: Sequence[Sequence[int]], *, room: int) -> Tensor:
        """Start again with these tokens per row; return the logits after each, [rows, vocabulary].

        ``room`` is how many more tokens each row will be given at most.
        """
        ...

    def advance(self, tokens: Tensor) -> Tensor:
        """Give each row one more token, int64 [rows]; return the logits after it."""
        ...

    def keep(self, rows: Tensor) -> bool:
        """Drop all but these rows; return False, changing nothing, when it cannot."""
        ...


class Extensible(Feed, Protocol):
    """A feed that can be given several tokens at once, and give up the last of them."""

    def extend(self, tokens: Sequence[int]) -> Tensor:
        """Give the only row these tokens; return the logits after each, [tokens, vocabulary]."""
        ...

    def cut(self, length: int) -> None:
        """Forget all but the first ``length`` tokens of the only row."""
        ...


def feed_for(model: Any, *, device: torch.device, vocab_size: int) -> Feed:
    """Return the fastest feed the model can do."""
    if getattr(model, "read", None) is not None:
        return Sources(model, device=device)
    if getattr(model, "new_cache", None) is None:
        return Recomputed(model, device=device)
    return Cached(model, device=device, vocab_size=vocab_size)


class Sources:
    """Reads each window, and writes after it; see :class:`llmforge.interfaces.SourceReader`."""

    apart = True

    def __init__(self, model: Any, *, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._cache: Any = None

    def start(self, windows: Sequence[Sequence[int]], *, room: int) -> Tensor:
        """Read the sources, equal ones once."""
        del room
        distinct = {tuple(window): None for window in windows}
        place = {window: row for row, window in enumerate(distinct)}
        inputs, lengths = _padded(list(distinct), self._device)
        self._cache = self._model.read(inputs, torch.tensor(lengths, device=self._device))
        if len(distinct) < len(windows):
            picked = [place[tuple(window)] for window in windows]
            self._cache.select(torch.tensor(picked, device=self._device))
        begin = torch.full((len(windows),), self._model.start_id, device=self._device)
        return self.advance(begin)

    def advance(self, tokens: Tensor) -> Tensor:
        """Write one more token after each source."""
        logits: Tensor = self._model(tokens[:, None], cache=self._cache)
        return logits[:, -1]

    def keep(self, rows: Tensor) -> bool:
        """Drop rows."""
        self._cache.select(rows)
        return True


class Cached:
    """Computes each token once; see :class:`llmforge.interfaces.Cache`."""

    apart = False

    def __init__(self, model: Any, *, device: torch.device, vocab_size: int) -> None:
        self._model = model
        self._device = device
        self._vocab_size = vocab_size
        self._cache: Any = None

    def start(self, windows: Sequence[Sequence[int]], *, room: int) -> Tensor:
        """Read the windows in pieces, padded on the right where they are shorter."""
        distinct = {tuple(window): None for window in windows}
        rows = list(distinct)
        self._cache = self._model.new_cache(len(rows), max(map(len, rows)) + room)
        if not hasattr(self._cache, "select") and len(rows) < len(windows):
            rows = [tuple(window) for window in windows]
            self._cache = self._model.new_cache(len(rows), max(map(len, rows)) + room)
        logits = self._read(rows)
        if len(rows) == len(windows):
            return logits
        place = {window: row for row, window in enumerate(rows)}
        picked = torch.tensor([place[tuple(window)] for window in windows], device=self._device)
        self._cache.select(picked)
        return logits[picked]

    def advance(self, tokens: Tensor) -> Tensor:
        """Give each row one more token."""
        logits: Tensor = self._model(tokens[:, None], cache=self._cache)
        return logits[:, -1]

    def extend(self, tokens: Sequence[int]) -> Tensor:
        """Give the only row several tokens in one pass."""
        inputs = torch.tensor([tokens], device=self._device)
        logits: Tensor = self._model(inputs, cache=self._cache)
        return logits[0]

    def cut(self, length: int) -> None:
        """Let what is beyond ``length`` be overwritten."""
        self._cache.set_lengths(torch.tensor([length], device=self._device))

    def keep(self, rows: Tensor) -> bool:
        """Drop rows if the cache can."""
        select = getattr(self._cache, "select", None)
        if select is None:
            return False
        select(rows)
        return True

    def _read(self, rows: Sequence[Sequence[int]]) -> Tensor:
        inputs, lengths = _padded(rows, self._device)
        width = inputs.shape[1]
        piece = max(1, PREFILL_LOGITS // (len(rows) * self._vocab_size))
        ends = torch.tensor(lengths, device=self._device) - 1
        last: Tensor | None = None
        for begin in range(0, width, piece):
            logits = self._model(inputs[:, begin : begin + piece], cache=self._cache)
            inside = (ends - begin).clamp(0, logits.shape[1] - 1)
            ended = logits[torch.arange(len(rows), device=self._device), inside]
            last = ended if last is None else torch.where((ends >= begin)[:, None], ended, last)
        if min(lengths) < width:
            self._cache.set_lengths(ends + 1)
        assert last is not None, "a window is never empty"
        return last


class Recomputed:
    """Computes the whole window again for each token, for models without a cache."""

    apart = False

    def __init__(self, model: Any, *, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._windows: list[list[int]] = []

    def start(self, windows: Sequence[Sequence[int]], *, room: int) -> Tensor:
        """Compute the windows."""
        del room
        self._windows = [list(window) for window in windows]
        return self._logits()

    def advance(self, tokens: Tensor) -> Tensor:
        """Compute the windows with one more token each."""
        for window, token in zip(self._windows, tokens.tolist(), strict=True):
            window.append(token)
        return self._logits()

    def extend(self, tokens: Sequence[int]) -> Tensor:
        """Compute the only window with several more tokens."""
        self._windows[0].extend(tokens)
        logits: Tensor = self._model(torch.tensor(self._windows, device=self._device))
        return logits[0, -len(tokens) :]

    def cut(self, length: int) -> None:
        """Shorten the only window."""
        del self._windows[0][length:]

    def keep(self, rows: Tensor) -> bool:
        """Drop rows."""
        self._windows = [self._windows[row] for row in rows.tolist()]
        return True

    def _logits(self) -> Tensor:
        inputs, lengths = _padded(self._windows, self._device)
        logits: Tensor = self._model(inputs)
        ends = torch.tensor(lengths, device=self._device) - 1
        return logits[torch.arange(len(lengths), device=self._device), ends]


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, list[int]]:
    """Return the rows as one int64 tensor, padded on the right with 0, and their lengths."""
    lengths = [len(row) for row in rows]
    width = max(lengths)
    filled = [[*row, *([0] * (width - len(row)))] for row in rows]
    return torch.tensor(filled, dtype=torch.int64, device=device), lengths
