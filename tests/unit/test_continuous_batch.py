"""Continuations that join and leave between tokens, over real models: equal to those alone."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import hf_models
import pytest
import torch
from generate_parts import make_model

from llmforge.interfaces import Continuation, ContinuationUpdate, GenerationRequest
from llmforge_plugins.generation._prefixes import Prefixes
from llmforge_plugins.generation._sampler import TextSampler
from llmforge_plugins.generation.sampler import Sampler
from llmforge_plugins.tokenizers.bytes import ByteTokenizer

PROMPTS = ["The history of", "a", "Once upon a time", "zebra", "The history", "ab", "xyz x"]
TOKENS = ByteTokenizer()


def make_sampler(model: Any, **options: Any) -> TextSampler:
    return TextSampler(
        Sampler.Options(**{"temperature": 1.0, "max_new_tokens": 12, **options}),
        model=model,
        tokenizer=TOKENS,
        notice=lambda _: None,
    )


def asked(key: int, prompt: str, **fields: Any) -> Continuation:
    options = Sampler.Options(
        **{"temperature": 1.0, "max_new_tokens": 12, **fields.pop("options", {})}
    )
    values = {"max_new_tokens": 12, "seed": 3, **fields}
    return Continuation(
        key=key, prompt=prompt, prompt_ids=TOKENS.encode(prompt), options=options, **values
    )


class Reader:
    """Collects what a batch reports."""

    def __init__(self) -> None:
        self.updates: defaultdict[int, list[ContinuationUpdate]] = defaultdict(list)

    def __call__(self, update: ContinuationUpdate) -> None:
        self.updates[update.key].append(update)

    def text(self, key: int) -> str:
        return "".join(update.text for update in self.updates[key])

    def finish(self, key: int) -> str | None:
        return self.updates[key][-1].finish


@pytest.fixture(scope="module", params=["transformer", "gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "transformer":
        return make_model(1)
    folder = hf_models.save(tmp_path_factory.mktemp("hub") / request.param, request.param)
    return hf_models.built(Path(folder), folder).eval()


@pytest.mark.parametrize(
    "options", [{}, {"greedy": True}, {"top_k": 20, "repetition_penalty": 1.2}, {"top_p": 0.8}]
)
def test_texts_that_join_and_leave_are_those_of_a_request_alone(
    model: Any, options: dict[str, Any]
) -> None:
    sampler = make_sampler(model, **options)
    batch = sampler.new_batch(rows=3, prefix_tokens=0)
    assert batch is not None
    reader = Reader()
    for key, prompt in enumerate(PROMPTS):
        batch.add(asked(key, prompt, options=options, max_new_tokens=12 - key))
        batch.step(reader)  # each joins while others are at other places
    while batch.busy:
        batch.step(reader)
    for key, prompt in enumerate(PROMPTS):
        request = GenerationRequest(prompts=[prompt], seed=3, max_new_tokens=12 - key)
        (alone,) = sampler.generate(request)
        assert (reader.text(key), reader.finish(key)) == (alone.text, alone.finish)
        assert reader.updates[key][-1].tokens == alone.tokens


def test_rows_of_different_options_do_not_touch_each_other(model: Any) -> None:
    kinds: list[dict[str, Any]] = [
        {"greedy": True},
        {"temperature": 0.7},
        {"frequency_penalty": 1.5, "presence_penalty": 0.5},
        {"min_p": 0.1, "stop": ["e"]},
    ]
    batch = make_sampler(model).new_batch(rows=4, prefix_tokens=0)
    assert batch is not None
    reader = Reader()
    for key, options in enumerate(kinds):
        batch.add(asked(key, "The same", options=options))
    while batch.busy:
        batch.step(reader)
    for key, options in enumerate(kinds):
        (alone,) = make_sampler(model, **options).generate(
            GenerationRequest(prompts=["The same"], seed=3)
        )
        assert (reader.text(key), reader.finish(key)) == (alone.text, alone.finish)


def test_a_prompt_that_begins_like_an_earlier_one_is_not_computed_again(model: Any) -> None:
    first = "You are a helpful one. A"
    second = "You are a helpful one. B?"
    sampler = make_sampler(model)
    batch = sampler.new_batch(rows=2, prefix_tokens=64)
    assert batch is not None
    reader = Reader()
    for key, prompt in enumerate((first, second)):
        batch.add(asked(key, prompt, max_new_tokens=5))
        while batch.busy:
            batch.step(reader)
    assert reader.updates[0][-1].reused == 0
    assert reader.updates[1][-1].reused == len("You are a helpful one. ")
    request = GenerationRequest(prompts=[second], seed=3, max_new_tokens=5)
    assert reader.text(1) == sampler.generate(request)[0].text


def test_a_cancelled_row_leaves_the_others_as_they_are(model: Any) -> None:
    sampler = make_sampler(model)
    batch = sampler.new_batch(rows=3, prefix_tokens=0)
    assert batch is not None
    reader = Reader()
    for key in range(5):
        batch.add(asked(key, PROMPTS[key]))
    for _ in range(3):
        batch.step(reader)
    batch.cancel(0)  # being written
    batch.cancel(4)  # waiting
    batch.cancel(77)  # unknown
    while batch.busy:
        batch.step(reader)
    assert reader.finish(0) is None
    assert 4 not in reader.updates
    for key in (1, 2, 3):
        (alone,) = sampler.generate(GenerationRequest(prompts=[PROMPTS[key]], seed=3))
        assert reader.text(key) == alone.text


def test_a_long_prompt_is_read_in_pieces_between_the_tokens_of_others() -> None:
    model = make_model(1)
    batch = make_sampler(model).new_batch(rows=2, prefix_tokens=0)
    assert batch is not None
    batch._piece = 8  # type: ignore[attr-defined]
    reader = Reader()
    batch.add(asked(0, "a"))
    batch.step(reader)
    from llmforge_plugins.generation import _continuous

    long = "x" * 40
    before = _continuous._BESIDE
    try:
        _continuous._BESIDE = 8
        batch.add(asked(1, long, max_new_tokens=3))
        for step in range(2, 6):
            batch.step(reader)
            assert len(reader.updates[0]) == step  # a token each step, while the other is read
            assert 1 not in reader.updates
        while batch.busy:
            batch.step(reader)
    finally:
        _continuous._BESIDE = before
    request = GenerationRequest(prompts=[long], seed=3, max_new_tokens=3)
    assert reader.text(1) == make_sampler(model).generate(request)[0].text


def test_scores_are_the_models_own_probabilities() -> None:
    model = make_model(1)
    batch = make_sampler(model).new_batch(rows=1, prefix_tokens=0)
    assert batch is not None
    reader = Reader()
    batch.add(asked(0, "abc", logprobs=3, max_new_tokens=4, options={"temperature": 0.3}))
    while batch.busy:
        batch.step(reader)
    scores = [score for update in reader.updates[0] for score in update.scores]
    ids = TOKENS.encode("abc")
    for score in scores:
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([ids]))[0, -1], dim=-1)  # type: ignore[operator]
        assert score.logprob == pytest.approx(float(logs[score.token]), abs=1e-3)
        assert score.top[0][1] == pytest.approx(float(logs.max()), abs=1e-3)
        assert len(score.top) == 3
        ids.append(score.token)


def test_weights_that_are_not_finite_end_the_text_with_an_error() -> None:
    model = make_model(1)
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            parameter.fill_(float("nan"))
    batch = make_sampler(model).new_batch(rows=2, prefix_tokens=0)
    assert batch is not None
    reader = Reader()
    batch.add(asked(0, "abc"))
    while batch.busy:
        batch.step(reader)
    assert "not finite" in str(reader.updates[0][-1].error)


def test_a_model_without_such_a_cache_has_no_batch() -> None:
    model = make_model(1)
    model.new_cache = None  # type: ignore[assignment, method-assign]
    assert make_sampler(model).new_batch(rows=2, prefix_tokens=0) is None


class Held:
    """Stands for a cache: only what is held counts here."""

    def new_row(self, length: int, *, source: Any, count: int) -> str:
        assert source is not None
        assert length == count
        return f"copy of {count}"


def test_prefixes_are_bounded_and_the_one_not_used_for_longest_goes() -> None:
    prefixes = Prefixes(50)
    a, b, c = ([number] * 20 for number in (1, 2, 3))
    prefixes.keep(a, Held())
    prefixes.keep(b, Held())
    assert prefixes.find([*a, 9]) == ("copy of 20", 20)
    prefixes.keep(c, Held())
    assert prefixes.find([*a, 9])[1] == 20
    assert prefixes.find([*b, 9]) == (None, 0)
    prefixes.keep([4] * 51, Held())
    assert prefixes.find([*([4] * 51), 9]) == (None, 0)


def test_the_longest_common_prefix_is_found_and_the_last_token_left_to_compute() -> None:
    prefixes = Prefixes(100)
    prefixes.keep([1] * 18 + [2], Held())
    prefixes.keep([1] * 30, Held())
    assert prefixes.find([1] * 18 + [2, 5])[1] == 19
    assert prefixes.find([1] * 30)[1] == 29
    assert prefixes.find([1] * 10) == (None, 0)
