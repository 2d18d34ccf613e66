"""How far token frequencies are apart: bounds, chance, and which tokens account for it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from llmforge.drift.token_distribution import BLOCK, count_tokens, divergence, sample_blocks

VOCABULARY = 50


def blocks(total: int, *, low: int = 0, high: int = VOCABULARY, seed: int = 1) -> list[NDArray]:
    ids = np.random.default_rng(seed).integers(low, high, total)
    return [ids[start : start + BLOCK] for start in range(0, total, BLOCK)]


def test_the_same_text_has_no_divergence() -> None:
    found = divergence(blocks(20_000), blocks(20_000), vocab_size=VOCABULARY)
    assert found.bits == 0
    assert found.excess == 0
    assert found.unseen == 0
    assert found.more == found.less == ()


def test_text_without_a_common_token_is_one_bit_apart() -> None:
    found = divergence(blocks(20_000, high=20), blocks(5_000, low=20), vocab_size=VOCABULARY)
    assert found.bits == pytest.approx(1)
    assert found.unseen == 1
    assert all(share.training == 0 < share.new for share in found.more)
    assert all(share.new == 0 < share.training for share in found.less)


@pytest.mark.parametrize("size", [500, 5_000])
def test_chance_explains_the_divergence_of_two_samples_of_one_source(size: int) -> None:
    found = divergence(blocks(60_000), blocks(size, seed=2), vocab_size=VOCABULARY)
    assert found.bits == pytest.approx(found.own, rel=0.5)
    assert found.excess < 0.01


def test_a_change_of_a_fifth_of_the_tokens_is_more_than_chance() -> None:
    new = blocks(4_000, seed=2)
    new.append(np.full(1_000, 7))
    found = divergence(blocks(60_000), new, vocab_size=VOCABULARY)
    assert found.excess > 0.03
    assert found.more[0].token == 7
    assert found.more[0].new == pytest.approx(0.2, abs=0.03)


def test_the_divergence_is_the_one_of_its_definition() -> None:
    training, new = [np.array([0, 0, 1])], [np.array([0, 2, 2])]
    p, q = np.array([2, 1, 0]) / 3, np.array([1, 0, 2]) / 3

    def entropy(shares: NDArray) -> float:
        return float(-sum(share * np.log2(share) for share in shares if share))

    expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert divergence(training, new, vocab_size=3).bits == pytest.approx(expected)


def test_a_sample_is_spread_over_all_of_the_tokens() -> None:
    whole = sample_blocks(2_500, most=10_000)
    assert whole == [(0, 1_024), (1_024, 2_048), (2_048, 2_500)]
    some = sample_blocks(1_000_000, most=10_240)
    assert len(some) == 10
    assert some[0] == (0, 1_024)
    assert some[-1][0] > 800_000
    assert sample_blocks(10, most=1) == [(0, 10)]


def test_counts_are_of_all_blocks() -> None:
    assert count_tokens([np.array([0, 2]), np.array([2])], vocab_size=4).tolist() == [1, 0, 2, 0]
