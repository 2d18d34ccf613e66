"""Weights rearranged for generation: same products, fresh for every cache; and picking rows."""

from __future__ import annotations

import pytest
import torch
from transformer_parts import small_model

from llmforge_plugins.models import _packed
from llmforge_plugins.models._packed import PackedWeights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_product_is_the_product(dtype: torch.dtype, rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(rows, 3, 64).to(dtype), torch.randn(96, 64).to(dtype)
    added = torch.randn(96).to(dtype) if bias else None
    exact = torch.nn.functional.linear(
        inputs.double(), weight.double(), None if added is None else added.double()
    )
    packed = PackedWeights()
    with torch.inference_mode():
        for _ in range(5):
            product = packed.linear(inputs, weight, added)
            assert product.dtype == dtype
            torch.testing.assert_close(
                product.double(), exact, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.3
            )


@pytest.mark.parametrize(
    ("shapes", "packed"),
    [
        ([(1, 1), (1, 1), (1, 1)], False),
        ([(1, 5), (1, 1), (1, 4)], False),
        ([(1, 5), (1, 1), (1, 4), (1, 3), (1, 2), (1, 1)], True),
        ([(1, 200), (1, 200)], False),
        ([(2, 1)], True),
    ],
    ids=["a token at a time", "few proposals", "proposals", "long prompts", "a batch"],
)
def test_fp32_weights_are_copied_for_several_positions_that_come_again(
    monkeypatch: pytest.MonkeyPatch, shapes: list[tuple[int, int]], packed: bool
) -> None:
    if not _packed._knows_packing():
        pytest.skip("this PyTorch cannot rearrange weights")
    monkeypatch.setattr(_packed, "onednn_is_faster", lambda: True)
    weight, held = torch.randn(96, 64), PackedWeights()
    with torch.inference_mode():
        for shape in shapes:
            inputs = torch.randn(*shape, 64)
            wanted = inputs.double() @ weight.double().t()
            torch.testing.assert_close(
                held.linear(inputs, weight).double(), wanted, rtol=0, atol=1e-4
            )
    assert bool(held._packed) == packed


def test_gradients_flow_where_they_are_wanted() -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    PackedWeights().linear(torch.randn(2, 1, 4), weight).sum().backward()
    assert weight.grad is not None


def test_a_new_cache_sees_changed_weights() -> None:
    model = small_model().eval()
    inputs = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        before = model(inputs, cache=model.new_cache(1, 8))
        for parameter in model.parameters():
            parameter.mul_(1.5)
        after = model(inputs, cache=model.new_cache(1, 8))
        torch.testing.assert_close(after, model(inputs), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("lengths", [[3, 3], [3, 2]])
def test_selected_rows_go_on_as_they_were(lengths: list[int]) -> None:
    model = small_model().eval()
    prompts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with torch.inference_mode():
        cache = model.new_cache(2, 8)
        model(prompts, cache=cache)
        cache.set_lengths(torch.tensor(lengths))
        cache.select(torch.tensor([1, 0, 1]))
        found = model(torch.tensor([[7], [8], [9]]), cache=cache)[:, -1]
        for row, (source, token) in enumerate([(1, 7), (0, 8), (1, 9)]):
            whole = torch.cat([prompts[source, : lengths[source]], torch.tensor([token])])
            torch.testing.assert_close(found[row], model(whole[None])[0, -1], rtol=1e-4, atol=1e-4)
