"""The generation loop: prompts in, completions out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from llmforge.errors import UsageError
from llmforge.interfaces import (
    Completion,
    ContinuousBatch,
    GenerationRequest,
    LanguageModel,
    Tokenizer,
)
from llmforge_plugins.generation._choose import (
    NOT_FINITE,
    RowChoice,
    choose,
    choose_along,
    not_finite,
    stream_seed,
)
from llmforge_plugins.generation._feed import Cached, Extensible, Feed, Recomputed, feed_for
from llmforge_plugins.generation._lookup import Lookup
from llmforge_plugins.generation._text import TextStream


@dataclass(slots=True)
class _Row:
    """One continuation in progress; ``ids`` are the prompt's tokens and those chosen so far."""

    prompt: str
    prompt_ids: list[int]
    ids: list[int]
    seed: int
    stream: TextStream
    finish: str = ""
    seconds: float = 0.0
    start: int = 0

    def window(self, context: int) -> list[int]:
        """Return the newest tokens to feed, at most ``context``; cut to half when it is full."""
        if len(self.ids) - self.start > context:
            self.start = len(self.ids) - _half(context)
        return self.ids[self.start :]

    @property
    def tokens(self) -> int:
        return len(self.ids) - len(self.prompt_ids)


class TextSampler:
    """Continues prompts with a model; implements :class:`llmforge.interfaces.Generator`.

    When the model's context is full, its newest half is kept and generation continues from there.

    Args:
        options: the options of the ``sampler`` component.
        model: a model in evaluation mode; without ``new_cache`` every token costs a full pass.
        tokenizer: the tokenizer the model was trained with.
        notice: told what the user should know, for example that a prompt was shortened.
    """

    def __init__(
        self,
        options: Any,
        *,
        model: LanguageModel,
        tokenizer: Tokenizer,
        notice: Callable[[str], None],
    ) -> None:
        self._options = options
        self._model = model
        self._tokenizer = tokenizer
        self._notice = notice
        # An encoder reads the prompt, and what a decoder writes does not continue it.
        self._apart = getattr(model, "read", None) is not None
        self._ends: frozenset[int | None] = frozenset()

    @torch.inference_mode()
    def generate(self, request: GenerationRequest) -> list[Completion]:
        """Return ``samples`` completions for each prompt, prompt by prompt."""
        if not request.prompts:
            return []
        started = time.perf_counter()
        rows = self._rows(request)
        self._ends = request.stop_ids | {self._tokenizer.eos_id}
        eager = request.on_text is not None or bool(self._options.stop)
        for row in self._run(rows, request, eager=eager):
            row.seconds = time.perf_counter() - started
        return [
            Completion(
                prompt=row.prompt,
                text=row.stream.text,
                tokens=row.tokens,
                finish=row.finish,
                seconds=row.seconds,
            )
            for row in rows
        ]

    def new_batch(self, *, rows: int, prefix_tokens: int) -> ContinuousBatch | None:
        """Return a batch that continuations join and leave between tokens.

        None for models without a cache that permits it.
        """
        from llmforge_plugins.generation._continuous import ContinuousSampler, row_cache

        if self._apart or row_cache(self._model) is None:
            return None
        return ContinuousSampler(
            self._model,
            self._tokenizer,
            device=_device(self._model),
            rows=rows,
            prefix_tokens=prefix_tokens,
        )

    def _rows(self, request: GenerationRequest) -> list[_Row]:
        rows: list[_Row] = []
        ordinals: Counter[str] = Counter()
        encoded = request.prompt_ids
        if encoded is None:
            encoded = self._tokenizer.encode_batch(list(request.prompts))
        for prompt, ids in zip(request.prompts, encoded, strict=True):
            begin = self._begin(list(ids), prompt)
            for _ in range(request.samples):
                stream = TextStream(
                    self._tokenizer.decode,
                    prompt=() if self._apart else begin,
                    stop=self._options.stop,
                    on_text=_told_as(len(rows), request.on_text),
                )
                seed = stream_seed(request.seed, prompt, ordinals[prompt])
                ordinals[prompt] += 1
                rows.append(_Row(prompt, begin, list(begin), seed, stream))
        return rows

    def _begin(self, ids: list[int], prompt: str) -> list[int]:
        context = self._model.context
        if len(ids) > context:
            self._notice(
                f"a prompt of {len(ids)} tokens is longer than the model's context ({context}): "
                f"only its last {_half(context)} tokens are read"
            )
        if ids:
            return ids
        if self._tokenizer.eos_id is None:
            raise UsageError(
                f"the prompt {prompt!r} has no tokens, and the tokenizer has no end-of-text "
                "token to begin from",
                remedy="give a prompt with some text",
            )
        return [self._tokenizer.eos_id]

    def _run(
        self, rows: Sequence[_Row], request: GenerationRequest, *, eager: bool
    ) -> Iterator[_Row]:
        """Generate all rows; yield each one when it is finished."""
        device = _device(self._model)
        feed = feed_for(self._model, device=device, vocab_size=self._tokenizer.vocab_size)
        limit = request.max_new_tokens or self._options.max_new_tokens
        live = list(rows)
        choices: list[RowChoice] = []
        tokens = torch.empty(0)
        room = 0
        for step in range(limit):
            if self._options.lookup and choices and len(live) == 1 and _extensible(feed):
                yield self._alone(live[0], feed, choices[0], room=room, limit=limit, eager=eager)
                return
            if room:
                logits = feed.advance(tokens)
                room -= 1
            else:
                logits, room = self._start(feed, live, left=limit - step)
            if not choices:
                choices = self._choices(live, logits, limit=limit, greedy=request.greedy)
            tokens = choose(logits, choices)
            chosen = tokens.tolist()
            _check_finite(chosen, step)
            for row, token in zip(live, chosen, strict=True):
                if row.finish:
                    continue
                if self._take(row, token, eager=eager, last=step + 1 == limit):
                    yield row
            going = [place for place, row in enumerate(live) if not row.finish]
            if not going:
                return
            if len(going) < len(live):
                kept = torch.tensor(going, device=device)
                if room == 0 or feed.keep(kept):
                    choices = [choices[place] for place in going]
                    tokens = tokens[kept]
                    live = [live[place] for place in going]

    def _start(self, feed: Feed, rows: Sequence[_Row], *, left: int) -> tuple[Tensor, int]:
        """Read the rows' windows; return the logits after them and for how many tokens is room."""
        windows = [row.window(self._model.context) for row in rows]
        room = left if feed.apart else self._model.context - max(map(len, windows))
        return feed.start(windows, room=min(room, left)), room

    def _alone(
        self,
        row: _Row,
        feed: Extensible,
        choice: RowChoice,
        *,
        room: int,
        limit: int,
        eager: bool,
    ) -> _Row:
        """Generate the rest of the only row, several tokens in a pass where lookup proposes them.

        The tokens are those of passes of one token each, and the window is cut where it would be.
        """
        lookup = Lookup(row.ids)
        while True:
            proposed: list[int] = []
            if room:
                most = min(self._options.lookup, room - 1, limit - row.tokens - 1)
                proposed = lookup.proposal(most, ends=self._ends)
                held = len(row.ids) - row.start
                tokens = choose_along(feed.extend([row.ids[-1], *proposed]), choice, proposed)
                room -= len(tokens)
                if len(tokens) <= len(proposed):
                    feed.cut(held + len(tokens) - 1)
            else:
                logits, room = self._start(feed, [row], left=limit - row.tokens)
                tokens = choose_along(logits, choice, proposed)
            lookup.passed(proposed=len(proposed), right=len(tokens) - 1)
            for token in tokens:
                _check_finite([token], row.tokens)
                if self._take(row, token, eager=eager, last=row.tokens + 1 == limit):
                    return row
                lookup.took(token)

    def _choices(
        self, rows: Sequence[_Row], logits: Tensor, *, limit: int, greedy: bool
    ) -> list[RowChoice]:
        return [
            RowChoice(
                self._options,
                prompt=[] if self._apart else row.prompt_ids,
                seed=row.seed,
                vocab_size=logits.shape[-1],
                device=logits.device,
                limit=limit,
                greedy=greedy,
            )
            for row in rows
        ]

    def _take(self, row: _Row, token: int, *, eager: bool, last: bool) -> bool:
        """Add ``token`` to the row; return whether that finished it."""
        if token in self._ends:
            row.finish = "eos"
        else:
            row.ids.append(token)
            if eager:
                row.stream.push([token])
            if last:
                row.finish = "length"
        if row.stream.stopped:
            row.finish = "stop"
        elif row.finish:
            if not eager:
                row.stream.push(row.ids[len(row.prompt_ids) :])
            row.stream.finish()
            row.finish = "stop" if row.stream.stopped else row.finish
        return bool(row.finish)


def _extensible(feed: Feed) -> TypeGuard[Extensible]:
    return isinstance(feed, Cached | Recomputed)


def _told_as(
    index: int, on_text: Callable[[int, str], None] | None
) -> Callable[[str], None] | None:
    return None if on_text is None else lambda piece: on_text(index, piece)


def _device(model: LanguageModel) -> torch.device:
    return next(
        (parameter.device for _, parameter in model.named_parameters()), torch.device("cpu")
    )


def _half(context: int) -> int:
    return max(1, context // 2)


def _check_finite(chosen: Sequence[int], step: int) -> None:
    if NOT_FINITE in chosen:
        raise not_finite(step)
