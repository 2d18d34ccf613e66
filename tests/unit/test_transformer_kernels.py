"""The transformer's kernels against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from llmforge.interfaces import IGNORE_INDEX
from llmforge_plugins.models import _cross_entropy, _linear
from llmforge_plugins.models._attention import causal_attention, rotary_tables
from llmforge_plugins.models._cross_entropy import linear_cross_entropy, linear_log_probs
from llmforge_plugins.models._norm import RmsNorm


def _problem(
    dtype: torch.dtype, positions: int = 70, width: int = 16
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(positions, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(91, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(91, (positions,))
    targets[::7] = IGNORE_INDEX
    return hidden, weight, targets


def _gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss * 0.25, inputs)


def _expected(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = (hidden @ weight.t()).float()
    return functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")


@pytest.mark.parametrize("chunk", [16, 70, 1000])
@pytest.mark.parametrize("onednn", [True, False])
def test_chunked_cross_entropy_equals_the_plain_one_in_fp32(
    chunk: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cross_entropy, "LOSS_CHUNKS", (str(chunk),))
    monkeypatch.setattr(_cross_entropy, "_SOFTMAX_ROWS_ON_CPU", 7)
    monkeypatch.setattr(_linear, "onednn_is_faster", lambda: onednn)
    hidden, weight, targets = _problem(torch.float32)
    loss = linear_cross_entropy(hidden, weight, targets)
    expected = _expected(hidden, weight, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(
        _gradients(loss, hidden, weight), _gradients(expected, hidden, weight), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trained", ["hidden", "weight"])
def test_a_frozen_input_of_cross_entropy_costs_no_gradient(trained: str) -> None:
    hidden, weight, targets = _problem(torch.float32)
    expected = linear_cross_entropy(hidden, weight, targets)
    alone = {"hidden": hidden, "weight": weight}[trained]
    (whole,) = _gradients(expected, alone)
    for frozen in (hidden, weight):
        if frozen is not alone:
            frozen.requires_grad_(False)
    loss = linear_cross_entropy(hidden, weight, targets)
    assert torch.equal(loss, expected)
    assert torch.equal(_gradients(loss, alone)[0], whole)


def test_chunked_cross_entropy_is_exact_in_double_precision() -> None:
    hidden, weight, targets = _problem(torch.float64)
    loss = linear_cross_entropy(hidden, weight, targets)
    logits = hidden @ weight.t()
    expected = functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(
        _gradients(loss, hidden, weight), _gradients(expected, hidden, weight), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_log_probabilities_and_their_weighted_gradients_are_exact_in_double_precision() -> None:
    hidden, weight, targets = _problem(torch.float64)
    found = linear_log_probs(hidden, weight, targets)
    plain = -functional.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    torch.testing.assert_close(found, plain)
    assert not found[targets == IGNORE_INDEX].any()
    draw = torch.Generator().manual_seed(6)
    each = torch.randn(len(found), dtype=torch.float64, generator=draw)
    for mine, theirs in zip(
        _gradients((found * each).sum(), hidden, weight),
        _gradients((plain * each).sum(), hidden, weight),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_log_probabilities_under_autocast_are_those_of_rounded_inputs() -> None:
    hidden, weight, targets = _problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_log_probs(hidden, weight, targets)
    assert found.dtype == torch.float32
    narrow = hidden.bfloat16(), weight.bfloat16()
    expected = _expected(*narrow, targets)
    torch.testing.assert_close(-found.sum(), expected, rtol=1e-5, atol=1e-3)
    for mine, theirs in zip(
        _gradients(-found.sum(), hidden, weight), _gradients(expected, *narrow), strict=True
    ):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs.float(), rtol=0.05, atol=0.02)


def test_using_the_gradients_of_a_loss_twice_is_refused() -> None:
    hidden, weight, targets = _problem(torch.float32)
    loss = linear_cross_entropy(hidden, weight, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()


def test_chunked_cross_entropy_under_autocast_is_the_one_of_rounded_inputs() -> None:
    hidden, weight, targets = _problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    expected = _expected(hidden.bfloat16(), weight.bfloat16(), targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)
    for mine, theirs in zip(
        _gradients(loss, hidden, weight), _gradients(expected, hidden, weight), strict=True
    ):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.02)


def test_a_target_too_unlikely_for_fp32_has_a_finite_loss_and_the_right_gradient() -> None:
    hidden = torch.tensor([[200.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    assert float(loss.detach()) == pytest.approx(87.336, abs=0.001)
    of_hidden, of_weight = torch.autograd.grad(loss, (hidden, weight))
    torch.testing.assert_close(of_hidden, torch.tensor([[1.0]]))
    torch.testing.assert_close(of_weight, torch.tensor([[200.0], [-200.0]]))


def test_a_loss_that_is_not_a_number_stays_visible() -> None:
    hidden, weight, targets = _problem(torch.float32)
    with torch.no_grad():
        hidden[1, 0] = float("nan")
    assert not torch.isfinite(linear_cross_entropy(hidden, weight, targets))


def test_cross_entropy_without_gradients_computes_none() -> None:
    hidden, weight, targets = _problem(torch.float32)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(loss, _expected(hidden, weight, targets).detach())
    assert not loss.requires_grad


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("rotary", [True, False])
def test_explicit_attention_passes_gradcheck(kv_heads: int, rotary: bool) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 5, 4 + 2 * kv_heads, 6, dtype=torch.float64, requires_grad=True)
    angles = rotary_tables(6, 5, 10_000.0) if rotary else None
    assert torch.autograd.gradcheck(lambda x: causal_attention(x, 4, angles), (qkv,))


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 8), (8, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_onednn_linear_map_equals_the_plain_one(
    inputs: int, outputs: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = _linear.Linear(inputs, outputs, bias=bias)
    x = torch.randn(3, 5, inputs, requires_grad=True)
    upstream = torch.randn(3, 5, outputs)

    def run(onednn: bool) -> tuple[Tensor, ...]:
        monkeypatch.setattr(_linear, "onednn_is_faster", lambda: onednn)
        product = layer(x)
        return product, *torch.autograd.grad(product, (x, *layer.parameters()), upstream)

    for mine, plain in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)


def test_rms_norm_and_its_gradient_are_exact() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    norm = RmsNorm(6, eps=1e-3).double()
    torch.nn.init.normal_(norm.weight)
    torch.testing.assert_close(norm(x), functional.rms_norm(x, (6,), norm.weight, 1e-3))
    assert torch.autograd.gradcheck(lambda *_: norm(x), (x, norm.weight))
