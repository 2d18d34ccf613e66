"""Distinct-n of Li et al. (2016)."""

from __future__ import annotations

import pytest

from llmforge.run.reporting.samples import distinct_n


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("a b c d", 1, 1.0),
        ("a b c d", 2, 0.75),
        ("a a a a", 1, 0.25),
        ("a a a a", 2, 0.25),
        ("a b a b", 2, 0.5),
        ("one", 1, 1.0),
        ("one", 2, 0.0),
        (" \n ", 1, 0.0),
        ("", 2, 0.0),
    ],
)
def test_different_n_grams_per_word(text: str, n: int, expected: float) -> None:
    assert distinct_n(text, n) == expected
