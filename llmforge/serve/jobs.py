"""From the body of a request to the continuations that answer it, or the reason why not."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmforge.errors import DataError, RecipeError
from llmforge.generation import changed_options
from llmforge.interfaces import Continuation, Message
from llmforge.serve.api_errors import ApiError
from llmforge.serve.bodies import ChatBody, CompletionBody, SamplingBody
from llmforge.serve.limits import Limits
from llmforge.serve.served_model import ServedModel

_LONG = 20_000
"""Characters from which a text is tokenised beside the event loop."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is continued: its text, which the seed depends on, and its tokens."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request that can be carried out.

    Attributes:
        prompts: in order.
        continuations: ``n`` of each prompt, prompt by prompt.
        n: how many of each.
    """

    prompts: tuple[Prompt, ...]
    continuations: tuple[Continuation, ...]
    n: int

    @property
    def prompt_tokens(self) -> int:
        """Return the tokens of all prompts."""
        return sum(len(prompt.ids) for prompt in self.prompts)


async def completion_job(body: CompletionBody, model: ServedModel, limits: Limits) -> Job:
    """Return the job of a completion.

    Raises:
        ApiError: what is wrong with it.
    """
    if body.best_of not in (None, body.n):
        raise _refused("best_of", "only as many texts as n are written: leave best_of out")
    texts = _prompt_list(body)
    if not texts:
        raise _refused("prompt", "there is no prompt")
    prompts = [await _prompt(item, model) for item in texts]
    return _job(body, prompts, model, limits, stop_ids=frozenset(), logprobs=body.logprobs)


async def chat_job(body: ChatBody, model: ServedModel, limits: Limits) -> Job:
    """Return the job of a chat completion.

    Raises:
        ApiError: what is wrong with it.
    """
    chat = model.loaded.chat
    if chat is None:
        raise _refused(
            "messages",
            f"{model.id} has no chat template, as it was trained on running text: "
            "use /v1/completions",
            code="no_chat_template",
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise _refused("top_logprobs", "top_logprobs needs logprobs = true")
    if body.messages[-1].role != "user":
        raise _refused("messages", "the last message must be one of the user")
    messages = [
        Message(role="system" if item.role == "developer" else item.role, content=item.text)
        for item in body.messages
    ]
    for message in messages:
        _require_text(message.content, "messages")
    size = sum(len(message.content) for message in messages)
    try:
        ids = await _computed(lambda: chat.encode(messages), size=size)
    except DataError as error:  # the template refuses it, or the tokenizer
        raise _refused("messages", str(error)) from None
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    prompt = Prompt(text=messages[-1].content, ids=_begun(ids, model))
    return _job(body, [prompt], model, limits, stop_ids=chat.stop_ids, logprobs=logprobs)


def _job(
    body: SamplingBody,
    prompts: Sequence[Prompt],
    model: ServedModel,
    limits: Limits,
    *,
    stop_ids: frozenset[int],
    logprobs: int | None,
) -> Job:
    count = body.n * len(prompts)
    if count > limits.max_batch:
        raise _refused(
            "n" if body.n > 1 else "prompt",
            f"{count} texts are asked for; a request may ask for {limits.max_batch}",
        )
    options = _options(body, model, limits)
    bias = _bias(body, model)
    if logprobs is not None and not model.continuous:
        raise _refused("logprobs", "this model's generator reports no probabilities")
    seed = secrets.randbits(48) if body.seed is None else body.seed
    ordinals: Counter[str] = Counter()
    asked: list[Continuation] = []
    for prompt in prompts:
        length = _length(body, prompt, options, model, limits)
        for _ in range(body.n):
            asked.append(
                Continuation(
                    key=0,
                    prompt=prompt.text,
                    prompt_ids=prompt.ids,
                    options=options,
                    max_new_tokens=length,
                    stop_ids=stop_ids,
                    seed=seed,
                    ordinal=ordinals[prompt.text],
                    logprobs=logprobs,
                    logit_bias=bias,
                )
            )
            ordinals[prompt.text] += 1
    return Job(prompts=tuple(prompts), continuations=tuple(asked), n=body.n)


def _length(
    body: SamplingBody, prompt: Prompt, options: Any, model: ServedModel, limits: Limits
) -> int:
    """Return how many tokens the answer may have."""
    room = model.context - len(prompt.ids)
    asked = getattr(body, "max_completion_tokens", None) or body.max_tokens
    if room < 1:
        raise _too_long(
            f"the prompt has {len(prompt.ids)} tokens; with an answer of one token or more the "
            f"model's context is {model.context}"
        )
    if asked is None:
        wanted = int(getattr(options, "max_new_tokens", room))
        return min(room, wanted, limits.max_tokens or room)
    if asked > room:
        raise _too_long(
            f"the prompt has {len(prompt.ids)} tokens and the answer shall have up to {asked}; "
            f"together the model's context is {model.context}"
        )
    if limits.max_tokens is not None and asked > limits.max_tokens:
        raise _refused("max_tokens", f"an answer may have {limits.max_tokens} tokens")
    return asked


def _options(body: SamplingBody, model: ServedModel, limits: Limits) -> Any:
    stops = body.stops() or []
    if len(stops) > limits.max_stops:
        raise _refused(
            "stop", f"{len(stops)} stop texts are given; there may be {limits.max_stops}"
        )
    for stop in stops:
        _require_text(stop, "stop")
    try:
        return changed_options(model.selection, body.changes()).options
    except RecipeError as error:
        first = error.problems[0]
        raise _refused(first.key.rpartition(".")[2].partition("[")[0], first.message) from None


def _bias(body: SamplingBody, model: ServedModel) -> dict[int, float]:
    bias = {int(token): value for token, value in (body.logit_bias or {}).items()}
    vocab_size = model.loaded.tokenizer.vocab_size
    if wrong := [token for token in bias if token >= vocab_size]:
        raise _refused("logit_bias", f"there is no token {wrong[0]}: they are below {vocab_size}")
    if bias and not model.continuous:
        raise _refused("logit_bias", "this model's generator takes no bias")
    return bias


def _prompt_list(body: CompletionBody) -> list[str | list[int]]:
    prompt: Any = body.prompt
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]
    return list(prompt)


async def _prompt(item: str | list[int], model: ServedModel) -> Prompt:
    tokenizer = model.loaded.tokenizer
    if isinstance(item, str):
        _require_text(item, "prompt")
        try:
            ids = await _computed(lambda: tokenizer.encode(item), size=len(item))
        except DataError as error:
            raise _refused("prompt", str(error)) from None
        return Prompt(text=item, ids=_begun(ids, model))
    if wrong := [token for token in item if token >= tokenizer.vocab_size]:
        raise _refused(
            "prompt", f"there is no token {wrong[0]}: they are below {tokenizer.vocab_size}"
        )
    return Prompt(text=tokenizer.decode(item), ids=_begun(item, model))


def _begun(ids: Sequence[int], model: ServedModel) -> tuple[int, ...]:
    """Return the tokens, or the end-of-text token that an empty text begins from."""
    if ids:
        return tuple(ids)
    eos_id = model.loaded.tokenizer.eos_id
    if eos_id is None:
        raise _refused("prompt", "the prompt has no tokens, and there is none to begin from")
    return (eos_id,)


async def _computed(call: Any, *, size: int) -> Any:
    return await asyncio.to_thread(call) if size > _LONG else call()


def _require_text(text: str, param: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refused(param, "the text has half a character (a lone surrogate)") from None


def _refused(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)


def _too_long(message: str) -> ApiError:
    return _refused("max_tokens", message, code="context_length_exceeded")
