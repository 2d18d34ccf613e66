"""The transformer's key-value cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformer_parts import VARIANTS, small_model, tokens

from llmforge_plugins.models._attention import (
    cached_attention,
    rotary_tables,
    rotate,
    turned,
    wide_tables,
)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_rows_of_unequal_length_go_on_as_if_each_were_alone(changes: dict[str, Any]) -> None:
    model = small_model(**changes).eval()
    prompts, following = tokens(3, 6), tokens(3, 4, seed=5)
    lengths = torch.tensor([2, 6, 4])
    with torch.inference_mode():
        cache = model.new_cache(3, 12)
        model(prompts, cache=cache)
        cache.set_lengths(lengths)
        together = torch.cat(
            [
                model(following[:, :2], cache=cache),
                model(following[:, 2:3], cache=cache),
                model(following[:, 3:], cache=cache),
            ],
            dim=1,
        )
        for row, length in enumerate(lengths.tolist()):
            alone = torch.cat([prompts[row, :length], following[row]])[None]
            torch.testing.assert_close(
                together[row], model(alone)[0, length:], rtol=1e-3, atol=1e-4
            )


def test_equal_lengths_can_cut_rows_back_and_go_on() -> None:
    model = small_model().eval()
    prompts, following = tokens(2, 6), tokens(2, 2, seed=5)
    with torch.inference_mode():
        cache = model.new_cache(2, 8)
        model(prompts, cache=cache)
        cache.set_lengths(torch.tensor([3, 3]))
        logits = model(following, cache=cache)
        whole = model(torch.cat([prompts[:, :3], following], dim=1))
    torch.testing.assert_close(logits, whole[:, 3:], rtol=1e-3, atol=1e-4)


def test_lengths_beyond_what_was_fed_are_refused() -> None:
    model = small_model().eval()
    with torch.inference_mode():
        cache = model.new_cache(2, 8)
        model(tokens(2, 3), cache=cache)
    for wrong in ([4, 1], [1], [-1, 2]):
        with pytest.raises(ValueError, match="2 lengths of at most 3 are needed"):
            cache.set_lengths(torch.tensor(wrong))


def test_more_positions_than_the_cache_or_the_context_holds_are_refused() -> None:
    model = small_model(context=12).eval()
    with torch.inference_mode():
        cache = model.new_cache(1, 4)
        model(tokens(1, 4), cache=cache)
        with pytest.raises(ValueError, match="4 cached \\+ 1 new positions exceed the room for 4"):
            model(tokens(1, 1), cache=cache)
        generous = model.new_cache(1, 100)
        model(tokens(1, 12), cache=generous)
        with pytest.raises(ValueError, match="exceed the room for 12"):
            model(tokens(1, 1), cache=generous)


@pytest.mark.parametrize("size", [16, 8, 4])
def test_heads_are_turned_with_wide_tables_as_with_narrow_ones(size: int) -> None:
    heads = torch.randn(2, 5, 3, 16)
    tables = rotary_tables(size, 5, 10_000.0)
    found = turned(heads, *wide_tables(*tables))
    torch.testing.assert_close(found, rotate(heads, *tables), rtol=0, atol=1e-6)


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_of_new_positions_in_bf16_is_near_that_in_fp32(
    new: int, kv_heads: int, masked: bool
) -> None:
    torch.manual_seed(1)
    queries = torch.randn(2, 4, new, 8).bfloat16()
    keys, values = (torch.randn(2, kv_heads, 20, 8).bfloat16() for _ in range(2))
    mask = (torch.arange(20) < torch.tensor([20, 13])[:, None])[:, None, None] if masked else None
    found = cached_attention(queries, keys, values, mask)
    assert found.dtype == torch.bfloat16
    wanted = cached_attention(queries.double(), keys.double(), values.double(), mask)
    torch.testing.assert_close(found.double(), wanted, rtol=0.02, atol=0.02)
