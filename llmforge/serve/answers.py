"""Answers in the shapes of OpenAI's API, whole and in pieces."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmforge.interfaces import ContinuationUpdate, Tokenizer, TokenScore
from llmforge.serve.jobs import Job
from llmforge.serve.served_model import ServedModel

_FINISH = {"eos": "stop", "stop": "stop", "length": "length"}

_IMPOSSIBLE = -9999.0

DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """Return ``value`` as an event of a stream."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


@dataclass
class _Choice:
    text: list[str] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    tokens: int = 0
    reused: int = 0
    finish: str | None = None
    shown: int = 0
    started: bool = False


class Answer:
    """The answer to one request while it is written.

    Args:
        job: the request.
        model: that writes it.
        form: the shape of its choices.
    """

    def __init__(self, job: Job, model: ServedModel, form: Form) -> None:
        self._job = job
        self._form = form
        self._choices = [_Choice() for _ in job.continuations]
        self._head = {
            "id": f"{form.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model.id,
            "system_fingerprint": model.fingerprint,
        }

    def take(self, place: int, update: ContinuationUpdate, *, keep: bool) -> None:
        """Take what is new of a continuation; its text is kept for a whole answer."""
        choice = self._choices[place]
        choice.tokens = max(choice.tokens, update.tokens)
        choice.reused = max(choice.reused, update.reused)
        choice.finish = update.finish or choice.finish
        if keep:
            choice.text.append(update.text)
            choice.scores.extend(update.scores)

    def whole(self) -> dict[str, Any]:
        """Return the answer as one document."""
        choices = [
            {
                "index": index,
                **self._form.whole("".join(choice.text), choice.scores, self._prompt_text(index)),
                "finish_reason": _FINISH.get(choice.finish or "", choice.finish),
            }
            for index, choice in enumerate(self._choices)
        ]
        head = {**self._head, "object": self._form.object}
        return {**head, "choices": choices, "usage": self.usage()}

    def pieces(
        self, news: Iterable[tuple[int, ContinuationUpdate]], *, usage: bool
    ) -> Iterator[bytes]:
        """Yield the events of what is new; text of one choice that is there already is one."""
        merged: dict[int, list[ContinuationUpdate]] = {}
        for place, update in news:
            self.take(place, update, keep=False)
            merged.setdefault(place, []).append(update)
        for place, updates in merged.items():
            yield from self._piece(place, updates, usage=usage)

    def _piece(
        self, place: int, updates: Sequence[ContinuationUpdate], *, usage: bool
    ) -> Iterator[bytes]:
        choice = self._choices[place]
        text = "".join(update.text for update in updates)
        scores = [score for update in updates for score in update.scores]
        if not choice.started:
            choice.started = True
            first = self._form.first(self._prompt_text(place))
            if first is not None:
                yield self._chunk(place, first, None, usage=usage)
        if text or scores:
            piece = self._form.piece(text, scores, choice.shown)
            choice.shown += len(text)
            yield self._chunk(place, piece, None, usage=usage)
        if choice.finish is not None:
            last = self._form.piece("", [], choice.shown, last=True)
            yield self._chunk(place, last, _FINISH.get(choice.finish, choice.finish), usage=usage)

    def usage_event(self) -> bytes:
        """Return the last event of a stream that shall tell how many tokens there were."""
        head = {**self._head, "object": self._form.chunk_object}
        return event({**head, "choices": [], "usage": self.usage()})

    def usage(self) -> dict[str, Any]:
        """Return how many tokens were read and written."""
        prompt = self._job.prompt_tokens
        written = sum(choice.tokens for choice in self._choices)
        reused = sum(choice.reused for choice in self._choices[:: self._job.n])
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": reused},
        }

    def _chunk(
        self, place: int, piece: dict[str, Any], finish: str | None, *, usage: bool
    ) -> bytes:
        chunk: dict[str, Any] = {
            **self._head,
            "object": self._form.chunk_object,
            "choices": [{"index": place, **piece, "finish_reason": finish}],
        }
        if usage:
            chunk["usage"] = None
        return event(chunk)

    def _prompt_text(self, place: int) -> str:
        return self._job.prompts[place // self._job.n].text


class Form(Protocol):
    """The shape of choices: that of completions, or of chat completions."""

    prefix: str
    object: str
    chunk_object: str

    def whole(self, text: str, scores: Sequence[TokenScore], prompt: str) -> dict[str, Any]:
        """Return a choice that is complete."""
        ...

    def first(self, prompt: str) -> dict[str, Any] | None:
        """Return what comes before the first text, if anything does."""
        ...

    def piece(
        self, text: str, scores: Sequence[TokenScore], offset: int, *, last: bool = False
    ) -> dict[str, Any]:
        """Return a piece of a choice that begins at a character."""
        ...


class CompletionForm:
    """Choices with a ``text``."""

    prefix = "cmpl"
    object = chunk_object = "text_completion"

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool, echo: bool) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._echo = echo

    def whole(self, text: str, scores: Sequence[TokenScore], prompt: str) -> dict[str, Any]:
        """Return a choice that is complete, after its prompt where that is echoed."""
        begin = prompt if self._echo else ""
        return {"text": begin + text, "logprobs": self._scores(scores, len(begin))}

    def first(self, prompt: str) -> dict[str, Any] | None:
        """Return the prompt where it is echoed."""
        return {"text": prompt, "logprobs": None} if self._echo else None

    def piece(
        self, text: str, scores: Sequence[TokenScore], offset: int, *, last: bool = False
    ) -> dict[str, Any]:
        """Return a piece of text."""
        del last
        return {"text": text, "logprobs": self._scores(scores, offset) if scores else None}

    def _scores(self, scores: Sequence[TokenScore], offset: int) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        tokens = [self._tokenizer.decode([score.token]) for score in scores]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [_finite(score.logprob) for score in scores],
            "top_logprobs": [
                {
                    self._tokenizer.decode([token]): _finite(value)
                    for token, value in reversed(score.top)
                }
                for score in scores
            ],
            "text_offset": offsets,
        }


class ChatForm:
    """Choices with a ``message``, or a ``delta`` of one."""

    prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs

    def whole(self, text: str, scores: Sequence[TokenScore], prompt: str) -> dict[str, Any]:
        """Return a choice that is complete."""
        del prompt
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "logprobs": self._scores(scores)}

    def first(self, prompt: str) -> dict[str, Any] | None:
        """Return who speaks."""
        del prompt
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def piece(
        self, text: str, scores: Sequence[TokenScore], offset: int, *, last: bool = False
    ) -> dict[str, Any]:
        """Return a piece of text."""
        del offset
        delta = {} if last else {"content": text}
        return {"delta": delta, "logprobs": self._scores(scores) if scores else None}

    def _scores(self, scores: Sequence[TokenScore]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = [
            {
                **self._scored(score.token, score.logprob),
                "top_logprobs": [self._scored(token, value) for token, value in score.top],
            }
            for score in scores
        ]
        return {"content": content, "refusal": None}

    def _scored(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._tokenizer.decode([token])
        return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}


def _finite(logprob: float) -> float:
    """Return a number that JSON can hold, as OpenAI does for what is next to impossible."""
    return max(logprob, _IMPOSSIBLE)
