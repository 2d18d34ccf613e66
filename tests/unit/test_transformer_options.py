"""Options, presets and counts of the transformer, none of which may need torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformer_parts import VARIANTS, VOCABULARY, small_shape

from llmforge_plugins.models._transformer import TransformerModel
from llmforge_plugins.models.transformer import Transformer

Options = Transformer.Options


def test_an_explicit_option_replaces_the_presets_value() -> None:
    shape = Options(preset="tiny", layers=6).shape()
    assert (shape.layers, shape.width, shape.heads) == (6, 256, 4)


def test_a_preset_can_set_the_variant_and_options_replace_that_too() -> None:
    assert Options(preset="neox-1b").shape().parallel_residual
    shape = Options(preset="neox-1b", parallel_residual=False, norm="rmsnorm").shape()
    assert (shape.parallel_residual, shape.norm, shape.activation) == (False, "rmsnorm", "gelu")


@pytest.mark.parametrize(
    ("activation", "width", "expected"),
    [("gelu", 256, 1024), ("swiglu", 768, 2048), ("swiglu", 256, 704), ("swiglu", 16, 64)],
)
def test_the_default_feed_forward_width_follows_the_activation(
    activation: str, width: int, expected: int
) -> None:
    options = Options(width=width, heads=2, activation=activation)
    assert options.shape().feed_forward == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "smal"}, "unknown preset 'smal'; did you mean 'small'?"),
        ({"preset": "xyz"}, "known: nano, tiny, small, medium, large, neox-1b, neox-1.2b"),
        ({"width": 100, "heads": 3}, "width 100 is not divisible by heads 3"),
        ({"heads": 4, "kv_heads": 3}, "heads 4 is not divisible by kv_heads 3"),
        ({"width": 36, "heads": 4}, "rotary positions need an even head size"),
        ({"width": 32, "heads": 4, "rotary_fraction": 0.2}, "is 8, of which 1 are turned"),
    ],
)
def test_impossible_options_are_refused_with_the_numbers(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Options(**options)
    assert message in str(caught.value)


def test_an_odd_head_size_is_fine_without_rotary_positions() -> None:
    assert Options(width=36, heads=4, positions="learned").shape().head_size == 9


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_parameters_are_counted_as_torch_counts_them(changes: dict[str, Any]) -> None:
    shape = small_shape(**changes)
    with torch.device("meta"):
        model = TransformerModel(shape, vocab_size=VOCABULARY)
    assert shape.parameters(VOCABULARY) == sum(p.numel() for p in model.parameters())


def test_floating_point_operations_are_six_per_weight_plus_attention() -> None:
    shape = small_shape(feed_forward=64, activation="gelu")
    weights = 2 * (32 * 96 + 32 * 32 + 2 * 32 * 64) + 100 * 32
    assert shape.flops_per_token(100) == 6 * weights + 12 * 2 * 32 * 12


def test_presets_are_listed_with_parameters_and_without_torch() -> None:
    code = (
        "import sys\n"
        "from llmforge_plugins.models.transformer import Transformer\n"
        "rows = Transformer.presets(8192)\n"
        "assert list(rows)[:5] == ['nano', 'tiny', 'small', 'medium', 'large'], rows\n"
        "assert rows['tiny']['parameters'] == 5310720, rows\n"
        "assert rows['tiny']['parameters_in_blocks'] == 3213312, rows\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
