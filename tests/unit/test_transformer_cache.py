"""The transformer's key-value cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformer_parts import VARIANTS, small_model, tokens


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
