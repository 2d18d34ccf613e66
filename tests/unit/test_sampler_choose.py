"""The draw of the next token, checked against distributions computed the plain way."""

from __future__ import annotations

import pytest
import torch

from llmforge_plugins.generation._choose import (
    NOT_FINITE,
    RowChoice,
    choose,
    draw,
    penalise,
    stream_seed,
)
from llmforge_plugins.generation.sampler import Sampler

DRAWS = 20_000


def frequencies(logits: torch.Tensor, **filters: float) -> torch.Tensor:
    """Return how often each token comes over an even grid of noise: exact to 1 / DRAWS."""
    noise = (torch.arange(DRAWS) + 0.5) / DRAWS
    settings = {"temperature": 1.0, **filters}
    tokens = draw(logits.expand(DRAWS, -1), noise[:, None], **settings)
    return torch.bincount(tokens, minlength=logits.shape[-1]) / DRAWS


def plainly(
    logits: torch.Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> torch.Tensor:
    """Return the filtered distribution, computed token by token in Python."""
    weights = torch.softmax(logits.double() / temperature, dim=-1)
    ranked = sorted(range(len(weights)), key=lambda token: -weights[token])
    kept = ranked[:top_k] if top_k else ranked
    total = sum(float(weights[token]) for token in kept)
    nucleus, reached = [], 0.0
    for token in kept:
        if reached >= top_p:
            break
        nucleus.append(token)
        reached += float(weights[token]) / total
    floor = min_p * float(weights.max())
    allowed = [token for token in nucleus if weights[token] >= floor]
    result = torch.zeros(len(weights))
    for token in allowed:
        result[token] = float(weights[token])
    return result / result.sum()


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"top_k": 10, "top_p": 0.7},
        {"top_p": 0.9, "min_p": 0.3},
        {"top_k": 8, "min_p": 0.15, "temperature": 1.5},
        {"top_k": 12, "top_p": 0.8, "min_p": 0.1, "temperature": 1.3},
    ],
)
def test_draws_follow_the_filtered_distribution(filters: dict[str, float]) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 1.5
    drawn = frequencies(logits, **filters)
    expected = plainly(logits, **filters)
    assert not drawn[expected == 0].any()
    assert drawn[expected > 2 / DRAWS].all()
    assert (drawn - expected).abs().max() < 3 / DRAWS


@pytest.mark.parametrize("spread", [0.0, 6.0])
def test_a_large_vocabulary_gives_the_same_nucleus_as_a_full_sort(spread: float) -> None:
    """A flat distribution needs the sort; a peaked one is served by its likeliest tokens."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2_000, generator=generator) * spread
    noise = 1 - torch.rand(64, 1, generator=generator)
    weights, order = torch.softmax(logits, dim=-1).sort(descending=True)
    size = int((weights.cumsum(-1) < 0.9).sum()) + 1
    tokens = draw(logits.expand(64, -1), noise, temperature=1.0, top_p=0.9)
    assert (size > 256) == (spread == 0.0)
    if spread:
        assert set(tokens.tolist()) <= set(order[:size].tolist())
    cumulative = weights[:size].cumsum(-1)
    expected = torch.searchsorted(cumulative, noise * cumulative[-1])
    assert (weights[expected[:, 0]] - torch.softmax(logits, -1)[tokens]).abs().max() < 1e-6


def test_no_noise_ever_draws_a_filtered_token() -> None:
    logits = torch.tensor([-50.0, 1.0, 0.5, -50.0])
    edges = torch.tensor([[2.0**-24], [1.0]])
    tokens = draw(logits.expand(2, -1), edges, temperature=1.0, min_p=0.1)
    assert tokens.tolist() == [1, 2]


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_without_a_distribution_are_marked_and_others_are_not(
    filters: dict[str, float], value: float
) -> None:
    logits = torch.zeros(2, 1_000)
    logits[1, 7] = value
    tokens = draw(logits, torch.full((2, 1), 0.5), temperature=1.0, **filters)
    assert tokens[0] >= 0
    assert tokens[1] == NOT_FINITE


def test_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens() -> None:
    logits = torch.tensor([[3.0, -3.0, 3.0, -3.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalise(logits, seen, penalty=1.5).tolist() == [[2.0, -4.5, 3.0, -3.0]]


def choices(*, prompts: list[list[int]], **options: object) -> list[RowChoice]:
    return [
        RowChoice(
            Sampler.Options(**options),
            prompt=prompt,
            seed=seed,
            vocab_size=4,
            device=torch.device("cpu"),
        )
        for seed, prompt in enumerate(prompts)
    ]


def test_penalty_counts_the_prompt_and_what_was_chosen() -> None:
    rows = choices(prompts=[[0]], greedy=True, repetition_penalty=2.0)
    logits = torch.tensor([[4.0, 3.0, 2.5, 0.1]])
    assert [choose(logits, rows).item() for _ in range(3)] == [1, 2, 0]


def test_presence_penalty_is_taken_once_and_not_for_the_prompt() -> None:
    rows = choices(prompts=[[0]], greedy=True, presence_penalty=1.0)
    logits = torch.tensor([[2.0, 1.5, 0.8, 0.0]])
    # 0 is taken first, then has 1.0, then both 0 (1.0) and 1 (0.5) are above or below 0.8
    assert [choose(logits, rows).item() for _ in range(4)] == [0, 1, 0, 0]


def test_frequency_penalty_grows_with_each_time() -> None:
    rows = choices(prompts=[[0]], greedy=True, frequency_penalty=0.5)
    logits = torch.tensor([[2.0, 1.4, 0.0, 0.0]])
    assert [choose(logits, rows).item() for _ in range(4)] == [0, 0, 1, 0]


def test_a_bias_can_force_and_forbid_a_token() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.5, 0.1]])
    device = torch.device("cpu")
    for bias, expected in (({3: 100.0}, 3), ({0: -100.0}, 1)):
        row = RowChoice(
            Sampler.Options(), prompt=[], seed=0, vocab_size=4, device=device, bias=bias
        )
        assert {choose(logits, [row]).item() for _ in range(20)} <= {expected, 1, 2}
        assert choose(logits, [row]).item() != 0


def test_temperature_zero_is_greedy() -> None:
    rows = choices(prompts=[[0]] * 2, temperature=0.0)
    assert choose(torch.tensor([[0.0, 1.0, 0.9, 0.0]] * 2), rows).tolist() == [1, 1]


def test_kept_rows_go_on_with_their_own_noise_and_memory() -> None:
    options = {"repetition_penalty": 1.3, "temperature": 1.0, "max_new_tokens": 20}
    logits = torch.tensor([[0.5, 0.2, 0.1, 0.4]])
    whole = choices(prompts=[[0], [1], [2]], **options)
    expected = [choose(logits.expand(3, -1), whole).tolist() for _ in range(20)]
    cut = choices(prompts=[[0], [1], [2]], **options)
    choose(logits.expand(3, -1), cut)
    rest = [choose(logits.expand(2, -1), cut[1:]).tolist() for _ in range(1, 20)]
    assert rest == [tokens[1:] for tokens in expected[1:]]


def test_rows_of_different_options_choose_as_they_do_alone() -> None:
    kinds = ({"temperature": 1.0}, {"greedy": True}, {"temperature": 0.5, "top_k": 2})
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    rows = [choices(prompts=[[0]], **kind)[0] for kind in kinds]
    alone = [choices(prompts=[[0]], **kind) for kind in kinds]
    for _ in range(20):
        together = choose(logits, rows).tolist()
        assert together == [choose(logits[i : i + 1], row).item() for i, row in enumerate(alone)]


def test_seeds_differ_by_seed_prompt_and_ordinal() -> None:
    seeds = {stream_seed(s, p, o) for s in (0, 1) for p in ("a", "b") for o in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
