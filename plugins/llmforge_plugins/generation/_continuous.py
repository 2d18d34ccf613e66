"""Continuous batching: continuations that join and leave between tokens.

Orca (Yu et al., OSDI 2022) schedules by token in this way. A prompt is read in pieces between the
tokens of the others (as Sarathi does, Agrawal et al. 2023, arXiv:2308.16369), in a cache of its
own, which then joins the cache of the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llmforge.interfaces import Continuation, ContinuationUpdate, Tokenizer, TokenScore
from llmforge_plugins.generation._choose import (
    NOT_FINITE,
    RowChoice,
    choose,
    not_finite,
    stream_seed,
)
from llmforge_plugins.generation._feed import PREFILL_LOGITS
from llmforge_plugins.generation._prefixes import Prefixes
from llmforge_plugins.generation._text import TextStream

Report = Callable[[ContinuationUpdate], None]

_ALONE = 512
"""Tokens of prompts read in one step while nobody waits for the next token."""
_BESIDE = 128
"""The same while others do."""


def row_cache(model: Any) -> Any:
    """Return an empty cache that rows can join; None when the model has none."""
    new_cache = getattr(model, "new_cache", None)
    cache = None if new_cache is None else new_cache(0, model.context)
    methods = ("new_row", "insert", "remove")
    return cache if all(hasattr(cache, name) for name in methods) else None


@dataclass(eq=False)
class _Row:
    """A continuation being read or written."""

    asked: Continuation
    stream: TextStream
    ends: frozenset[int | None]
    cache: Any
    pieces: list[str]
    reused: int
    read: int
    tokens: int = 0
    last: int = 0
    scores: list[TokenScore] = field(default_factory=list)
    choice: RowChoice = field(init=False)


class ContinuousSampler:
    """Implements :class:`llmforge.interfaces.ContinuousBatch`.

    Args:
        model: in evaluation mode, with a :class:`llmforge.interfaces.RowCache`.
        tokenizer: the tokenizer it was trained with.
        device: where it is.
        rows: continuations written at once.
        prefix_tokens: tokens of earlier prompts that are held at most.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        device: torch.device,
        rows: int,
        prefix_tokens: int,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._most = rows
        self._cache = row_cache(model)
        self._rows: list[_Row] = []
        self._waiting: deque[Continuation] = deque()
        self._reading: _Row | None = None
        self._prefixes = Prefixes(prefix_tokens)
        self._piece = max(1, PREFILL_LOGITS // tokenizer.vocab_size)

    @property
    def busy(self) -> bool:
        """Return whether there is anything left to write."""
        return bool(self._rows or self._waiting or self._reading)

    def add(self, continuation: Continuation) -> None:
        """Take a continuation; it waits for its turn."""
        self._waiting.append(continuation)

    @torch.inference_mode()
    def cancel(self, key: int) -> None:
        """Give a continuation up."""
        if self._reading is not None and self._reading.asked.key == key:
            self._reading = None
        self._waiting = deque(item for item in self._waiting if item.key != key)
        for place, row in enumerate(self._rows):
            if row.asked.key == key:
                self._remove(place)
                return

    @torch.inference_mode()
    def step(self, report: Report) -> None:
        """Write one more token of each row, then read what others begin with."""
        if self._rows:
            tokens = torch.tensor([[row.last] for row in self._rows], device=self._device)
            logits = self._model(tokens, cache=self._cache)[:, -1]
            ended = self._take(self._rows, logits, report)
            for place in reversed(ended):  # the last takes the place: it was looked at already
                self._remove(place)
        budget = _BESIDE if self._rows else _ALONE
        while budget > 0 and self._has_next():
            budget -= self._read(budget, report)

    def _has_next(self) -> bool:
        if self._reading is None and self._waiting and len(self._rows) < self._most:
            self._reading = self._begin(self._waiting.popleft())
        return self._reading is not None

    def _begin(self, asked: Continuation) -> _Row:
        found, count = self._prefixes.find(asked.prompt_ids)
        cache = self._cache.new_row(len(asked.prompt_ids), source=found, count=count)
        pieces: list[str] = []
        stream = TextStream(
            self._tokenizer.decode,
            prompt=asked.prompt_ids,
            stop=asked.options.stop,
            on_text=pieces.append,
        )
        ends = asked.stop_ids | {self._tokenizer.eos_id}
        return _Row(asked, stream, ends, cache, pieces, reused=count, read=count)

    def _choice(self, asked: Continuation, *, vocab_size: int) -> RowChoice:
        return RowChoice(
            asked.options,
            prompt=asked.prompt_ids,
            seed=stream_seed(asked.seed, asked.prompt, asked.ordinal),
            vocab_size=vocab_size,
            device=self._device,
            limit=asked.max_new_tokens,
            bias=asked.logit_bias,
        )

    def _read(self, budget: int, report: Report) -> int:
        """Read at most ``budget`` tokens of the prompt at hand; return how many."""
        row = self._reading
        assert row is not None
        ids = row.asked.prompt_ids
        piece = list(ids[row.read : row.read + min(budget, self._piece)])
        inputs = torch.tensor([piece], device=self._device)
        logits = self._model(inputs, cache=row.cache)[:, -1]
        row.read += len(piece)
        if row.read == len(ids):
            self._reading = None
            row.choice = self._choice(row.asked, vocab_size=logits.shape[-1])
            if row.reused < len(ids) - 1:
                self._prefixes.keep(ids, row.cache)
            if not self._take([row], logits, report):
                self._cache.insert(row.cache)
                self._rows.append(row)
            row.cache = None
        return len(piece)

    def _take(self, rows: Sequence[_Row], logits: Tensor, report: Report) -> list[int]:
        """Choose the next token of each row, report it, and return the places of those done."""
        tokens = choose(logits, [row.choice for row in rows]).tolist()
        if any(row.asked.logprobs is not None for row in rows):
            self._score(rows, logits, tokens)
        ended: list[int] = []
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if token == NOT_FINITE:
                error = not_finite(row.tokens)
                report(ContinuationUpdate(key=row.asked.key, tokens=row.tokens, error=error))
                ended.append(place)
                continue
            finish = _finish(row, token)
            report(
                ContinuationUpdate(
                    key=row.asked.key,
                    text="".join(row.pieces),
                    tokens=row.tokens,
                    scores=tuple(row.scores),
                    reused=row.reused,
                    finish=finish,
                )
            )
            row.pieces.clear()
            row.scores.clear()
            if finish is not None:
                ended.append(place)
        return ended

    def _score(self, rows: Sequence[_Row], logits: Tensor, tokens: Sequence[int]) -> None:
        logs = torch.log_softmax(logits.float(), dim=-1)
        for row, line, token in zip(rows, logs, tokens, strict=True):
            count = row.asked.logprobs
            if count is None or token == NOT_FINITE or token in row.ends:
                continue
            values, ids = line.topk(min(count, len(line)))
            top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
            row.scores.append(TokenScore(token=token, logprob=float(line[token]), top=top))

    def _remove(self, place: int) -> None:
        self._cache.remove(place)
        self._rows[place] = self._rows[-1]
        self._rows.pop()


def _finish(row: _Row, token: int) -> str | None:
    """Add ``token`` to the row; return why that finished it, or None."""
    finish: str | None = None
    if token in row.ends:
        finish = "eos"
    else:
        row.last = token
        row.tokens += 1
        row.stream.push([token])
        if row.tokens == row.asked.max_new_tokens:
            finish = "length"
    if row.stream.stopped:
        return "stop"
    if finish is not None:
        row.stream.finish()
        return "stop" if row.stream.stopped else finish
    return None
