"""Prompt lookup: the same texts in fewer passes, and none more where nothing repeats."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from sampler_parts import PROMPTS, ByteTokens, Script, Selecting, Toy, Uncached, generate, texts

from llmforge import ForgeError
from llmforge.generation.int8_layers import quantise_layers
from llmforge_plugins.generation._lookup import Lookup
from llmforge_plugins.generation.sampler import Sampler
from llmforge_plugins.models._transformer import TransformerModel
from llmforge_plugins.models.transformer import Transformer

CODE = "for item in items:\n    total += item.price\nfor item in items:\n    total +="


class Guesses:
    """Proposals that are right for as long as a seed says, and then wrong; counts the right ones.

    Args:
        known: texts that may be generated, each the prompt and what follows.
    """

    def __init__(self, *known: str) -> None:
        self._known = [list(text.encode()) for text in known]
        self._random = random.Random(3)
        self.right = 0
        self.passes = 0

    def __call__(self, lookup: Lookup, most: int, *, ends: Any) -> list[int]:
        del ends
        so_far = lookup._ids
        truth = next((text for text in self._known if text[: len(so_far)] == so_far), so_far)
        count = min(most, self._random.choice((0, 1, 2, 5, 9)))
        found = truth[len(so_far) :][:count]
        if found and self._random.random() < 0.6:
            found[self._random.randrange(len(found))] ^= 1
        self.passes += bool(found)
        return found


def two(kind: type[Toy], *, end: float = -100.0, context: int = 48) -> tuple[Toy, Toy]:
    """Return a model twice, that says ASCII and ends its text as likely as ``end`` says."""
    models = kind(context=context), kind(context=context)
    for model in models:
        with torch.no_grad():
            model.head.bias[128:] = -100
            model.head.bias[256] = end
    return models


@pytest.mark.parametrize("kind", [Toy, Selecting, Uncached])
@pytest.mark.parametrize(
    "options",
    [
        {"greedy": True},
        {},
        {"top_k": 20},
        {"top_p": 0.8, "min_p": 0.02},
        {"repetition_penalty": 1.3},
        {"presence_penalty": 0.7, "frequency_penalty": 0.4, "temperature": 0.5},
        {"greedy": True, "repetition_penalty": 1.2},
    ],
)
@pytest.mark.parametrize("count", [2, 40, 130])
def test_proposals_right_and_wrong_change_no_token(
    monkeypatch: pytest.MonkeyPatch, kind: type[Toy], options: dict[str, Any], count: int
) -> None:
    """Also where the context is full, which it is after 48 tokens."""
    options = {"max_new_tokens": count, "seed": 5, **options}
    for prompt in PROMPTS:
        model, plain = two(kind)
        (wanted,) = generate(plain, [prompt], **options)
        guesses = Guesses(prompt + wanted.text)
        with monkeypatch.context() as patched:
            patched.setattr(Lookup, "proposal", lambda *a, g=guesses, **k: g(*a, **k))
            (found,) = generate(model, [prompt], lookup=9, **options)
        assert (found.text, found.tokens, found.finish) == (wanted.text, count, "length")
        if count > 2:
            assert guesses.passes > 5
            assert len(model.fed) < len(plain.fed)


@pytest.mark.parametrize("kind", [Selecting, Uncached])
@pytest.mark.parametrize("options", [{"greedy": True}, {"temperature": 0.05}])
def test_a_text_that_repeats_needs_fewer_passes(kind: type[Toy], options: dict[str, Any]) -> None:
    model, plain = two(kind)
    wanted = generate(plain, [CODE[-20:]], max_new_tokens=150, **options)
    assert texts(generate(model, [CODE[-20:]], max_new_tokens=150, lookup=8, **options)) == texts(
        wanted
    )
    assert len(plain.fed) == 150
    assert len(model.fed) < 140


def test_a_text_that_does_not_repeat_is_generated_as_without() -> None:
    model, plain = two(Selecting)
    wanted = generate(plain, ["zebra"], max_new_tokens=100, temperature=3.0)
    assert texts(generate(model, ["zebra"], max_new_tokens=100, temperature=3.0, lookup=8)) == (
        texts(wanted)
    )
    assert model.fed == plain.fed


def test_rows_of_a_batch_are_generated_as_without_and_the_last_one_left_is_sped_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 200, "samples": 2, "seed": 6}
    model, plain = two(Selecting, end=0.0, context=300)
    wanted = generate(plain, PROMPTS, **options)
    ends = sorted(item.tokens for item in wanted)
    assert ends[-1] > ends[-2], "one is left in the end"
    (longest,) = (item for item in wanted if item.tokens == ends[-1])
    right = list((longest.prompt + longest.text).encode())

    def the_truth(lookup: Lookup, most: int, **_: Any) -> list[int]:
        return right[len(lookup._ids) :][: min(most, 3)]

    monkeypatch.setattr(Lookup, "proposal", the_truth)
    found = generate(model, PROMPTS, lookup=8, **options)
    assert [(item.text, item.tokens, item.finish) for item in found] == [
        (item.text, item.tokens, item.finish) for item in wanted
    ]
    several = [shape for shape in model.fed[1:] if shape[1] > 1]
    assert {rows for rows, _ in several} == {1}


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("script", [b"tick tock " * 6 + b"END more", "né🙂 ".encode() * 9 + b"END"])
def test_a_stop_text_ends_it_at_the_same_place(script: bytes, streaming: bool) -> None:
    pieces: dict[int, list[str]] = {0: [], 8: []}
    found = [
        generate(
            Script(script),
            ["x"],
            stop=["END"],
            max_new_tokens=200,
            lookup=lookup,
            on_text=(lambda _, text, into=into: into.append(text)) if streaming else None,
        )[0]
        for lookup, into in pieces.items()
    ]
    assert found[0].finish == found[1].finish == "stop"
    assert (found[0].text, found[0].tokens) == (found[1].text, found[1].tokens)
    assert pieces[0] == pieces[8]


def test_the_end_of_text_token_ends_it_though_the_text_continued_there_before() -> None:
    class Counted(Script):
        passes = 0

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.passes += 1
            return super().forward(inputs)

    model = Counted(b"ab" * 30, 256, b"ab" * 30)
    (found,) = generate(model, ["x"], max_new_tokens=200, lookup=8)
    assert (found.text, found.finish, found.tokens) == ("ab" * 30, "eos", 60)
    assert model.passes < 30


def test_output_that_is_not_finite_is_reported_for_the_same_token() -> None:
    class Broken(Script):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            logits = super().forward(inputs)
            logits[:, 40:] = float("nan")
            return logits

    messages = []
    for lookup in (0, 8):
        with pytest.raises(ForgeError, match="not finite") as caught:
            generate(Broken(b"ab" * 60), ["x"], max_new_tokens=100, lookup=lookup, greedy=True)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "token 41" in messages[0]


class Counting(TransformerModel):
    """Remembers how many passes it computed."""

    passes = 0

    def forward(self, inputs: torch.Tensor, **given: Any) -> torch.Tensor:
        self.passes += 1
        return super().forward(inputs, **given)


def transformer(**changes: Any) -> Counting:
    torch.manual_seed(2)
    options = Transformer.Options(layers=2, width=64, heads=2, context=64, **changes)
    model = Counting(options.shape(), vocab_size=257).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(8)  # logits far enough apart for their rounding
    return model


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    "shape", [{}, {"positions": "learned"}, {"kv_heads": 1}, {"token_shift": True}]
)
@pytest.mark.parametrize("options", [{"greedy": True}, {"temperature": 0.5, "top_k": 5}])
def test_the_transformer_says_the_same_also_past_its_context_and_in_int8(
    monkeypatch: pytest.MonkeyPatch, shape: dict[str, Any], options: dict[str, Any], int8: bool
) -> None:
    plain, model = transformer(**shape), transformer(**shape)
    if int8:
        quantise_layers(plain)
        quantise_layers(model)
    tokens = ByteTokens(eos_id=None)
    told: list[list[int]] = []
    tokens.decode = lambda ids: told.append(list(ids)) or ""  # type: ignore[method-assign]
    sizes = {"max_new_tokens": 150, "tokenizer": tokens, **options}
    generate(plain, [CODE[:50]], **sizes)
    wanted = max(told, key=len)
    told.clear()
    text = [*CODE[:50].encode(), *wanted[-150:]]

    def mostly_right(lookup: Lookup, most: int, **_: Any) -> list[int]:
        at = len(lookup._ids)
        found = text[at:][: min(most, at % 5)]
        if at % 3 == 0 and found:
            found[-1] ^= 1
        return found

    monkeypatch.setattr(Lookup, "proposal", mostly_right)
    generate(model, [CODE[:50]], lookup=6, **sizes)
    assert max(told, key=len) == wanted
    assert model.passes < plain.passes == 150


def learned(text: Sequence[int], *, most: int = 8) -> list[int]:
    return Lookup(text).proposal(most, ends=frozenset())


def test_what_followed_the_longest_earlier_occurrence_is_proposed() -> None:
    repeated = [1, 2, 3, 4, 5, 6, 7, 8, 9] * 3
    assert learned([*repeated, 50, 3, 4, 60, 1, 2, 3, 4])[:4] == [5, 6, 7, 8]


def test_a_text_that_goes_in_circles_is_proposed_round_and_round() -> None:
    assert learned([1, 2, 3] * 10, most=7) == [1, 2, 3, 1, 2, 3, 1]


def test_nothing_is_proposed_that_did_not_occur() -> None:
    assert learned(range(100)) == []
    assert learned([]) == []


def test_at_most_as_many_are_proposed_and_none_that_ends_a_text() -> None:
    text = [1, 2, 3, 4, 5, 6] * 10
    assert learned(text, most=0) == []
    assert learned(text, most=3) == [1, 2, 3]
    assert Lookup(text).proposal(8, ends={4, None}) == [1, 2, 3]


def written(lookup: Lookup, text: Iterator[int], count: int) -> tuple[int, float]:
    """Give ``lookup`` a text as the sampler would; return its passes and what those cost."""
    ahead = [next(text) for _ in range(count)]
    done, passes, cost = 0, 0, 0.0
    while done < count:
        proposed = lookup.proposal(min(8, count - done - 1), ends=frozenset())
        right = 0
        while right < len(proposed) and proposed[right] == ahead[done + right]:
            right += 1
        lookup.passed(proposed=len(proposed), right=right)
        for token in ahead[done : done + right + 1]:
            lookup.took(token)
        done += right + 1
        passes += 1
        cost += 1 + (0.3 + 0.15 * len(proposed) if proposed else 0)
    return passes, cost


def misleading(seed: int) -> Iterator[int]:
    """Yield long repetitions that break off, each shortly after it can be recognised."""
    source = random.Random(seed)
    past = [source.randrange(50) for _ in range(200)]
    while True:
        begin = source.randrange(len(past) - 20)
        piece = [*past[begin : begin + source.randint(4, 9)], source.randrange(50, 10_000)]
        past += piece
        yield from piece


@pytest.mark.parametrize("alphabet", [2, 3, 5, 20, 1000])
@pytest.mark.parametrize("count", [60, 1000])
def test_text_without_a_pattern_costs_at_most_two_in_a_hundred_more(
    alphabet: int, count: int
) -> None:
    for seed in range(10):
        source = random.Random(seed)
        _, cost = written(Lookup([]), iter(lambda s=source: s.randrange(alphabet), -1), count)
        assert cost <= 1.02 * count + 1.5


@pytest.mark.parametrize("seed", range(5))
def test_text_that_misleads_costs_at_most_two_in_a_hundred_more(seed: int) -> None:
    _, cost = written(Lookup([]), misleading(seed), 2000)
    assert cost <= 1.02 * 2000 + 2


def test_a_text_that_begins_to_repeat_itself_is_noticed() -> None:
    lookup = Lookup([])
    source = random.Random(1)
    written(lookup, iter(lambda: source.randrange(5), -1), 300)
    line = [7, 8, 9, 10, 11, 12, 13, 14]
    passes, _ = written(lookup, iter(line * 30), 200)
    assert passes < 80


@pytest.mark.parametrize("value", [-1, 65, "many"])
def test_numbers_of_proposals_that_make_no_sense_are_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        Sampler.Options(lookup=value)
