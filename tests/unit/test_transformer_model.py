"""The transformer: every variant under the contract of its kind, then what is its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformer_parts import VARIANTS, VOCABULARY, small_model, tokens

from llmforge.component import Component
from llmforge.testing import ModelContract, make_component
from llmforge_plugins.models import _attention
from llmforge_plugins.models.transformer import Transformer


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
class TestVariants(ModelContract):
    """Each variant keeps the whole contract."""

    component = Transformer

    @pytest.fixture
    def plugin(self, changes: Mapping[str, Any]) -> Component:
        """The transformer in this variant."""
        sizes = {"layers": 2, "width": 32, "heads": 4, "context": 12}
        return make_component(self.component, {**sizes, **changes})

    # they look at the module and the class, not at the variant
    test_its_module_imports_no_heavy_package = None
    test_every_option_is_documented = None


def test_residual_projections_start_smaller_by_the_root_of_their_number() -> None:
    torch.manual_seed(1)
    model = small_model(width=128, heads=4, layers=8)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    plain = weights["blocks.0.attention.qkv.weight"].std()
    scaled = weights["blocks.0.feed_forward.down.weight"].std()
    assert float(plain / scaled) == pytest.approx(math.sqrt(16), rel=0.05)


def test_tied_embeddings_are_one_parameter() -> None:
    names = [name for name, _ in small_model().named_parameters()]
    assert not any(name.startswith("head") for name in names)
    assert "head.weight" in dict(small_model(tie_embeddings=False).named_parameters())


def test_rotary_positions_see_distance_not_place() -> None:
    model = small_model(layers=1).eval()
    repeated = tokens(1, 1).repeat(1, 12)
    first, *others = model(repeated)[0]
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-4)
    order = model(tokens(1, 12))[0, -1]
    swapped = tokens(1, 12)
    swapped[0, [2, 5]] = swapped[0, [5, 2]]
    assert not torch.allclose(model(swapped)[0, -1], order, atol=1e-3)


def test_learned_positions_see_the_place() -> None:
    model = small_model(positions="learned").eval()
    logits = model(tokens(1, 1).repeat(1, 12))[0]
    assert not torch.allclose(logits[3], logits[7], atol=1e-3)


def test_dropout_acts_while_training_only() -> None:
    model = small_model(dropout=0.5)
    batch = {"inputs": tokens(2, 8), "targets": tokens(2, 8)}
    model.train()
    assert model.loss(batch)[0] != model.loss(batch)[0]
    model.eval()
    assert model.loss(batch)[0] == model.loss(batch)[0]


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="13 positions exceed the model's context of 12"):
        small_model()(tokens(1, 13))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_long_contexts_take_another_kernel_to_the_same_loss_and_gradients(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {"inputs": tokens(2, 12), "targets": tokens(2, 12, seed=4)}

    def gradients() -> list[torch.Tensor]:
        model = small_model(**changes)
        loss, _ = model.loss(batch)
        loss.backward()
        return [loss, *(p.grad for p in model.parameters() if p.grad is not None)]

    short = gradients()
    monkeypatch.setattr(_attention, "_LONGEST_EXPLICIT", 0)
    for one, other in zip(short, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_bf16_autocast_stays_close_to_fp32() -> None:
    model = small_model().eval()
    batch = {"inputs": tokens(4, 12), "targets": tokens(4, 12, seed=4)}
    exact, count = model.loss(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = model.loss(batch)
        assert model(batch["inputs"]).dtype == torch.bfloat16
    assert float((rounded - exact).detach().abs() / count) < 0.02


def test_weights_in_bf16_generate_with_a_cache() -> None:
    model = small_model().eval().to(torch.bfloat16)
    with torch.inference_mode():
        cache = model.new_cache(1, 8)
        pieces = [model(tokens(1, 8)[:, at : at + 1], cache=cache) for at in range(8)]
        whole = model(tokens(1, 8))
    assert torch.cat(pieces, dim=1).dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0.1, atol=0.2)


def test_a_model_knows_its_vocabulary_in_its_cost() -> None:
    assert small_model().flops_per_token() == small_model().shape.flops_per_token(VOCABULARY)


def test_a_frozen_weight_needs_no_gradient() -> None:
    model = small_model()
    whole = model.flops_per_token()
    matrix = model.blocks[0].feed_forward.down.weight.requires_grad_(False)
    assert model.flops_per_token() == whole - 2 * matrix.numel()
    model.requires_grad_(False)
    frozen = sum(p.numel() for p in model.blocks.parameters() if p.dim() > 1)
    assert model.flops_per_token() == whole - 2 * (frozen + model._output_weight().numel())
