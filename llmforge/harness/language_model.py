"""A loaded model as the lm-evaluation-harness asks for it.

Imports the harness (package ``lm-eval``); loaded only where a benchmark is run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch.nn import functional

from llmforge.data.prompts import ChatPrompts
from llmforge.errors import UsageError
from llmforge.generation import LoadedModel, build_generator, changed_options
from llmforge.interfaces import ChatTokenizer, GenerationRequest, Message
from llmforge.progress import track

Scored = tuple[float, bool]
Request = tuple[Any, list[int], list[int]]

_MOST_LOGITS = 1 << 26
"""Logits in memory at once: a quarter of a gigabyte in fp32."""

_WRITTEN_AT_ONCE = 16
_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}
_KNOWN = {"until", "max_gen_toks", "do_sample", *_SAMPLING}


class HarnessModel(TemplateLM):
    """Scores and writes text for the harness, as its own models of Hugging Face do.

    Args:
        loaded: the model.

    Raises:
        UsageError: the model neither scores nor writes text.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        form = loaded.run.form
        if form not in ("next_token", "seq2seq"):
            raise UsageError(
                f"{loaded.run.id} was trained as '{form}', and benchmarks are for models that "
                "write text",
                remedy="forge evaluate RUN measures it on its own data",
            )
        self.backend = "seq2seq" if form == "seq2seq" else "causal"
        self._loaded = loaded
        self._model: Any = loaded.model
        self._context = loaded.model.context
        self._prefix = _first_token(loaded)

    # What the harness asks about the model ---------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends texts."""
        eos = self._loaded.tokenizer.eos_id
        return self._prefix if eos is None else eos

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without a context."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """What tells requests laid out for this model from others."""
        return self._loaded.tokenizer.fingerprint

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the tokens of a text, with those that the tokenizer's own rules add."""
        tokenizer = self._loaded.tokenizer
        if not isinstance(tokenizer, ChatTokenizer):
            return list(tokenizer.encode(string))
        begins = tokenizer.bos_token is not None and string.startswith(tokenizer.bos_token)
        if add_special_tokens is False or begins:
            return list(tokenizer.encode_spans(string, special=True)[0])
        return list(tokenizer.encode_whole(string))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the run's template."""
        del chat_template
        return self._chat().template.source

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as text, laid out by the run's template."""
        messages = [Message(role=item["role"], content=item["content"]) for item in chat_history]
        template = self._chat().template
        rendered = template.render(messages, add_generation_prompt=add_generation_prompt)
        return rendered.text

    def _chat(self) -> ChatPrompts:
        chat = self._loaded.chat
        if not isinstance(chat, ChatPrompts):
            raise UsageError("this run has no chat template", remedy="leave out --chat")
        return chat

    # Scoring ---------------------------------------------------------------------------------

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of whole texts, each token with all the context there is."""
        windows: list[Request] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            rolled = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._context,
                context_len=1,
            )
            for window in map(make_disjoint_window, rolled):
                windows.append((None, *window))
                owners.append(owner)
        totals = [0.0] * len(requests)
        scored = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        for owner, (value, _) in zip(owners, scored, strict=True):
            totals[owner] += value
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **_: Any
    ) -> list[Scored]:
        """Return (log-likelihood, whether greedy) of each continuation.

        Requests that read the same tokens, as the choices of a question that are one token long,
        are computed once.
        """
        del disable_tqdm
        readers: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
        for place, (_text, context, continuation) in enumerate(requests):
            readers[self._read(context, continuation)].append(place)
        found: dict[int, Scored] = {}
        with track("scoring", total=len(requests), unit="requests") as task:
            for batch in self._batches(sorted(readers, key=lambda read: -sum(map(len, read)))):
                for read, logits in zip(batch, self._logits(batch), strict=True):
                    for place in readers[read]:
                        found[place] = _score(logits, requests[place][2])
                        task.advance(1)
        return [found[place] for place in range(len(requests))]

    def _read(self, context: list[int], continuation: list[int]) -> tuple[tuple[int, ...], ...]:
        """Return what the model reads to score a continuation: its inputs, or source and inputs."""
        if self.backend == "causal":
            return (tuple((context + continuation)[-(self._context + 1) :][:-1]),)
        return (
            tuple(context[-self._context :]),
            (self._model.start_id, *continuation[-self._context :][:-1]),
        )

    def _batches(self, reads: list[Any]) -> Iterator[list[Any]]:
        """Yield what is computed at once, from long to short."""
        vocabulary = self._loaded.tokenizer.vocab_size
        while reads:
            longest = max(map(len, reads[0]))
            rows = max(1, _MOST_LOGITS // (longest * vocabulary))
            yield reads[:rows]
            reads = reads[rows:]

    def _logits(self, batch: Sequence[Any]) -> Iterator[torch.Tensor]:
        """Yield the logits [positions, vocabulary] of each row, without its padding."""
        with torch.inference_mode():
            if self.backend == "causal":
                logits = self._model(self._padded([read[0] for read in batch]))
            else:
                sources = [read[0] for read in batch]
                lengths = torch.tensor(list(map(len, sources)), device=self._loaded.device)
                cache = self._model.read(self._padded(sources), lengths)
                logits = self._model(self._padded([read[1] for read in batch]), cache=cache)
        for row, read in zip(logits, batch, strict=True):
            yield row[: len(read[-1])]

    def _padded(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return rows as one tensor; later positions do not change what is before them."""
        width = max(map(len, rows))
        filled = [[*row, *[self._prefix] * (width - len(row))] for row in rows]
        return torch.tensor(filled, device=self._loaded.device)

    # Writing ---------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each prompt, up to a stop text of the task."""
        del disable_tqdm
        groups: dict[str, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            groups[repr(sorted(request.args[1].items()))].append(place)
        written: dict[int, str] = {}
        with track("writing", total=len(requests), unit="requests") as task:
            for places in groups.values():
                settings = normalize_gen_kwargs(requests[places[0]].args[1])
                prompts = {place: self.tok_encode(requests[place].args[0]) for place in places}
                places.sort(key=lambda place: -len(prompts[place]))
                for first in range(0, len(places), _WRITTEN_AT_ONCE):
                    chosen = places[first : first + _WRITTEN_AT_ONCE]
                    texts = self._write([prompts[place] for place in chosen], settings)
                    written.update(zip(chosen, texts, strict=True))
                    task.advance(len(chosen))
        return [written[place] for place in range(len(requests))]

    def _write(self, prompts: Sequence[Sequence[int]], settings: Any) -> list[str]:
        unknown = sorted(set(settings) - _KNOWN)
        if unknown:
            raise UsageError(f"a task asks for the generation option '{unknown[0]}', unknown here")
        stops = [text for text in settings["until"] if text]
        changes: dict[str, Any] = {"stop": stops, "greedy": not settings["do_sample"]}
        if settings["do_sample"]:
            changes |= {key: value for key, value in settings.items() if key in _SAMPLING}
        most = settings["max_gen_toks"]
        if self.backend == "causal":
            most = min(most, self._context - 1)
            prompts = [prompt[-(self._context - most) :] for prompt in prompts]
        else:
            prompts = [prompt[: self._context] for prompt in prompts]
        selection = self._loaded.recipe.selected("generation")
        generator = build_generator(self._loaded, changed_options(selection, changes))
        found = generator.generate(
            GenerationRequest(
                prompts=[""] * len(prompts),
                prompt_ids=prompts,
                max_new_tokens=most,
                greedy=not settings["do_sample"],
            )
        )
        return [_before(item.text, stops) for item in found]


def _first_token(loaded: LoadedModel) -> int:
    tokenizer = loaded.tokenizer
    if isinstance(tokenizer, ChatTokenizer) and tokenizer.bos_token is not None:
        return tokenizer.special_tokens[tokenizer.bos_token]
    if tokenizer.eos_id is None:
        raise UsageError("the tokenizer has no token that begins or ends texts")
    return tokenizer.eos_id


def _score(logits: torch.Tensor, continuation: Sequence[int]) -> Scored:
    """Return the log-likelihood of the last tokens of a row, and whether each is the likeliest."""
    kept = logits[-len(continuation) :].float()
    targets = torch.tensor(continuation[-len(kept) :], device=kept.device)
    value = -functional.cross_entropy(kept, targets, reduction="sum")
    return float(value), bool((kept.argmax(-1) == targets).all())


def _before(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text
