"""The sampler over small models of the test's own: every path of the generation loop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from sampler_parts import PROMPTS, ByteTokens, Script, Selecting, Toy, Uncached, generate, texts

from llmforge import ForgeError
from llmforge.errors import UsageError
from llmforge_plugins.generation.sampler import Sampler


def greedily(model: Toy, prompt: str, count: int) -> str:
    """Return the likeliest continuation, by computing everything again for every token."""
    ids = list(prompt.encode())
    begin = 0
    for _ in range(count):
        if len(ids) - begin > model.context:
            begin = len(ids) - model.context // 2
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids[begin:]]))[0, -1, :256].argmax()))
    return ByteTokens().decode(ids)[len(prompt) :]


@pytest.mark.parametrize("kind", [Toy, Selecting, Uncached])
@pytest.mark.parametrize("count", [1, 20, 120])
def test_greedy_takes_the_likeliest_token_also_beyond_the_context(
    kind: type[Toy], count: int
) -> None:
    model = kind()
    with torch.no_grad():
        model.head.bias[256] = -100
    found = generate(model, greedy=True, max_new_tokens=count)
    assert texts(found) == [greedily(model, prompt, count) for prompt in PROMPTS]
    assert {item.finish for item in found} == {"length"}
    assert {item.tokens for item in found} == {count}


@pytest.mark.parametrize("kind", [Toy, Selecting, Uncached])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"greedy": True},
        {"top_k": 20, "repetition_penalty": 1.2},
        {"top_p": 0.8, "min_p": 0.02},
        {"max_new_tokens": 100},
    ],
)
def test_a_completion_does_not_depend_on_its_batch(
    kind: type[Toy], options: dict[str, Any]
) -> None:
    together = generate(kind(), samples=3, **options)
    alone = [
        item for prompt in PROMPTS for item in generate(kind(), [prompt], samples=3, **options)
    ]
    assert texts(together) == texts(alone)
    assert [item.prompt for item in together] == [prompt for prompt in PROMPTS for _ in range(3)]


def test_caches_of_every_kind_and_no_cache_give_the_same_texts() -> None:
    found = [texts(generate(kind(), samples=2)) for kind in (Toy, Selecting, Uncached)]
    assert found[0] == found[1] == found[2]


def test_seeds_decide_the_text() -> None:
    first, again, other = (texts(generate(Toy(), seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_samples_of_a_prompt_differ_and_equal_the_prompt_given_twice() -> None:
    samples = texts(generate(Toy(), ["abc"], samples=2))
    assert samples[0] != samples[1]
    assert texts(generate(Toy(), ["abc", "abc"])) == samples


def test_a_longer_limit_continues_the_same_text() -> None:
    short = texts(generate(Uncached(), max_new_tokens=17, tokenizer=ByteTokens(eos_id=None)))
    long = texts(generate(Uncached(), max_new_tokens=40, tokenizer=ByteTokens(eos_id=None)))
    assert all(
        late.startswith(early.rstrip("\ufffd")) for early, late in zip(short, long, strict=True)
    )


def test_a_prompt_with_several_samples_is_read_once() -> None:
    model = Selecting()
    generate(model, ["abc", "abcdef"], samples=4, max_new_tokens=3)
    assert model.fed == [(2, 6), (8, 1), (8, 1)]


def test_each_token_is_computed_once() -> None:
    model = Toy()
    generate(model, ["abc", "abcdef"], max_new_tokens=4)
    assert model.fed == [(2, 6), (2, 1), (2, 1), (2, 1)]


@pytest.mark.parametrize(("kind", "rows"), [(Selecting, 1), (Uncached, 1), (Toy, 2)])
def test_finished_rows_are_dropped_where_the_model_can(kind: type[Toy], rows: int) -> None:
    model = kind()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[256] = 1.0
    found = generate(model, ["a"], samples=2, max_new_tokens=40)
    shorter, longer = sorted(item.tokens for item in found)
    assert shorter < longer
    assert model.fed[shorter][0] == 2
    assert all(fed[0] == rows for fed in model.fed[shorter + 1 :])


def test_the_end_of_text_token_ends_a_completion_and_is_not_in_it() -> None:
    (found,) = generate(Script(b"abc", 256, b"def"), ["x"])
    assert (found.text, found.finish, found.tokens) == ("abc", "eos", 3)


def test_without_an_end_of_text_token_the_limit_ends_it() -> None:
    (found,) = generate(Script(b"abc"), ["x"], tokenizer=ByteTokens(eos_id=None), max_new_tokens=7)
    assert (found.text, found.finish, found.tokens) == ("abcabca", "length", 7)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_stop_text_over_several_tokens_ends_a_completion_and_is_cut(streaming: bool) -> None:
    pieces: list[str] = []
    on_text = (lambda _, piece: pieces.append(piece)) if streaming else None
    (found,) = generate(Script(b"one\nEND two"), ["x"], stop=["\nEND"], on_text=on_text)
    assert (found.text, found.finish) == ("one", "stop")
    assert "".join(pieces) == ("one" if streaming else "")


def test_streamed_pieces_are_whole_characters_and_add_up_to_the_text() -> None:
    pieces: list[tuple[int, str]] = []
    model = Script("é漢🙂.".encode())
    found = generate(model, ["x", "y"], on_text=lambda *piece: pieces.append(piece))
    for index, completion in enumerate(found):
        mine = [text for row, text in pieces if row == index]
        assert "".join(mine) == completion.text == "é漢🙂." * 3
        assert mine[:4] == ["é", "漢", "🙂", "."]


def test_streaming_does_not_change_the_text() -> None:
    streamed = generate(Toy(), samples=2, on_text=lambda *_: None)
    assert texts(streamed) == texts(generate(Toy(), samples=2))


def test_an_empty_prompt_begins_at_the_end_of_text_token() -> None:
    model = Toy()
    generate(model, ["", "abc"], max_new_tokens=2, greedy=True)
    assert model.fed[0] == (2, 3)
    with pytest.raises(UsageError, match="no tokens"):
        generate(Toy(), [""], tokenizer=ByteTokens(eos_id=None))


def test_no_prompts_give_no_completions() -> None:
    assert generate(Toy(), []) == []


def test_a_prompt_longer_than_the_context_is_cut_with_a_notice() -> None:
    notices: list[str] = []
    prompt = "x" * 30 + "the newest half of the ."
    long = generate(Toy(), [prompt], max_new_tokens=5, notices=notices, seed=3, greedy=True)
    short = generate(Toy(), [prompt[-24:]], max_new_tokens=5, seed=3, greedy=True)
    assert texts(long) == texts(short)
    assert len(notices) == 1
    assert "54 tokens" in notices[0]
    assert "last 24" in notices[0]


@pytest.mark.parametrize("greedy", [True, False])
def test_an_output_that_is_not_finite_is_a_clear_error(greedy: bool) -> None:
    model = Toy()
    with torch.no_grad():
        model.head.bias[9] = float("nan")
    with pytest.raises(ForgeError, match="not finite"):
        generate(model, greedy=greedy)


def test_a_long_prompt_is_read_in_pieces_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = texts(generate(Toy()))
    monkeypatch.setattr("llmforge_plugins.generation._feed.PREFILL_LOGITS", 4 * 257 * 3)
    model = Toy()
    assert texts(generate(model)) == whole
    assert model.fed[:5] == [(4, 3), (4, 3), (4, 3), (4, 3), (4, 2)]


def test_bfloat16_weights_are_sampled() -> None:
    found = generate(Uncached().to(torch.bfloat16), max_new_tokens=10)
    assert all(item.tokens == 10 or item.finish == "eos" for item in found)


def test_completions_carry_their_time() -> None:
    assert all(item.seconds > 0 for item in generate(Toy()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("top_k", -1),
        ("top_p", 0.0),
        ("min_p", 1.0),
        ("repetition_penalty", 0.0),
        ("stop", [""]),
    ],
)
def test_options_that_make_no_sense_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Sampler.Options(**{key: value})


def test_the_component_is_light() -> None:
    code = "import sys, llmforge_plugins.generation.sampler; sys.exit('torch' in sys.modules)"
    plugins = Path(__file__).parents[2] / "plugins"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(plugins)})
    assert done.returncode == 0
