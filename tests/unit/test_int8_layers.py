"""Linear layers with int8 weights: how exact they are, how they multiply, what they replace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llmforge.errors import UsageError
from llmforge.generation.int8_layers import Int8Linear, Int8Summary, quantise_layers, quantised
from llmforge.generation.int8_products import int8_product, packed_rows
from llmforge.generation.load import resolve_dtype
from llmforge.interfaces import LinearLayer, linear_layers
from llmforge_plugins.models._transformer import TransformerModel
from llmforge_plugins.models.transformer import Transformer

ALL, NONE = 1 << 20, 0  # rows for which the kernel is taken
TEXT = b"the quick brown fox jumps over the lazy dog, and the dog sleeps on. "


def model(**changes: Any) -> TransformerModel:
    torch.manual_seed(1)
    options = Transformer.Options(layers=2, width=64, heads=2, context=64, **changes)
    return TransformerModel(options.shape(), vocab_size=256).eval()


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """The weights of a model that has learned a sentence, and what may follow its words."""
    torch.set_num_threads(1)
    trained = model().train()
    text = torch.tensor(list(TEXT * 8))
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    for step in range(25):
        starts = torch.randint(len(text) - 65, (4,), generator=torch.Generator().manual_seed(step))
        rows = torch.stack([text[start : start + 65] for start in starts])
        loss, count = trained.loss({"inputs": rows[:, :-1], "targets": rows[:, 1:]})
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    return trained.state_dict()


@pytest.fixture
def pair(weights: dict[str, torch.Tensor]) -> tuple[TransformerModel, TransformerModel]:
    """The trained model with fp32 weights, and with int8."""
    plain, small = model(), model()
    plain.load_state_dict(weights)
    small.load_state_dict(weights)
    quantise_layers(small)
    return plain, small


def test_no_weight_is_off_by_more_than_half_a_step_of_its_output() -> None:
    weight = torch.randn(50, 30) * torch.logspace(-6, 4, 50)[:, None]
    found, scale = quantised(weight)
    assert found.dtype == torch.int8
    assert int(found.min()) >= -127
    error = (found * scale[:, None] - weight).abs()
    assert bool((error <= scale[:, None] * 0.5001).all())
    torch.testing.assert_close(scale, weight.abs().amax(1) / 127)


def test_a_row_of_zeros_stays_zero() -> None:
    found, scale = quantised(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert found[0].tolist() == [0, 0]
    assert bool(scale.isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_show_in_the_outputs(value: float) -> None:
    weight = torch.ones(4, 32)
    weight[2, 5] = value
    outputs = Int8Linear(LinearLayer(weight=weight, bias=None))(torch.ones(1, 32))
    assert outputs.isfinite().tolist() == [[True, True, False, True]]


@pytest.mark.parametrize("count", [1, 3, 8, 33])
def test_the_kernel_and_widened_weights_compute_the_same(count: int) -> None:
    torch.manual_seed(0)
    rows, (weight, scale) = torch.randn(count, 96), quantised(torch.randn(50, 96))
    packed = int8_product(rows, weight, scale, most_packed=ALL)
    widened = int8_product(rows, weight, scale, most_packed=NONE)
    torch.testing.assert_close(packed, widened, rtol=2**-7, atol=1e-5)
    assert (packed == widened).float().mean() > 0.98
    exact = rows.bfloat16().double() @ (weight.double() * scale[:, None].double()).t()
    torch.testing.assert_close(packed.double(), exact, rtol=2**-7, atol=1e-4)


def test_a_row_is_multiplied_alike_whatever_is_beside_it() -> None:
    torch.manual_seed(0)
    rows, (weight, scale) = torch.randn(7, 64), quantised(torch.randn(40, 64))
    for most in (ALL, NONE):
        together = int8_product(rows, weight, scale, most_packed=most)
        alone = [int8_product(row[None], weight, scale, most_packed=most) for row in rows]
        torch.testing.assert_close(together, torch.cat(alone), rtol=2**-7, atol=1e-5)


def test_large_matrices_are_widened_piece_by_piece() -> None:
    torch.manual_seed(0)
    weight, scale = quantised(torch.randn(3000, 256))
    rows = torch.randn(2, 256)
    found = int8_product(rows, weight, scale, most_packed=NONE)
    exact = (rows.bfloat16().float() @ weight.float().t()).bfloat16() * scale
    torch.testing.assert_close(found, exact, rtol=2**-7, atol=1e-4)


def test_rows_that_the_kernel_would_read_past_are_never_given_to_it() -> None:
    assert packed_rows(7, 20) == 0
    layer = Int8Linear(LinearLayer(weight=torch.randn(7, 20), bias=torch.randn(7)))
    assert layer(torch.randn(2, 3, 20)).shape == (2, 3, 7)


def test_what_is_fastest_is_measured_once_for_a_shape() -> None:
    packed_rows(64, 64)
    before = packed_rows.cache_info().misses
    quantise_layers(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)))
    assert packed_rows.cache_info().misses == before


@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_but_the_embedding_becomes_int8(tied: bool) -> None:
    small = model(tie_embeddings=tied)
    embedding = small.embedding.weight.clone()
    summary = quantise_layers(small)
    assert summary.layers == 2 * 4 + 1
    assert summary.speed > 0
    assert 3.5 < summary.bytes_before / summary.bytes_after <= 4
    assert torch.equal(small.embedding.weight, embedding)
    assert {item.dtype for item in small.parameters()} == {torch.float32}
    assert not linear_layers(small)
    layers = [item for item in small.modules() if isinstance(item, Int8Linear)]
    assert len(layers) == summary.layers
    held = sum(item.nbytes for item in (*small.parameters(), *small.buffers()))
    assert summary.model_bytes == held
    for item in ("MB → ", "products of one row", f"{summary.layers} linear layers"):
        assert item in str(summary)


def test_logits_loss_and_texts_stay_close(
    pair: tuple[TransformerModel, TransformerModel],
) -> None:
    plain, small = pair
    text = torch.tensor(list(TEXT * 2))[None, :65]
    with torch.inference_mode():
        expected, found = plain(text[:, :-1]), small(text[:, :-1])
        assert float((found - expected).abs().max()) < 0.1 * float(expected.std())
        batch = {"inputs": text[:, :-1], "targets": text[:, 1:]}
        loss, count = plain.loss(batch)
        quantised_loss, quantised_count = small.loss(batch)
        assert count == quantised_count
        assert float((quantised_loss - loss) / count) < 0.01  # 1 % of the perplexity
        scored, _ = small.sequence_log_probs(batch)
        torch.testing.assert_close(scored.sum(), -quantised_loss, rtol=1e-4, atol=1e-4)
        same = (expected.argmax(-1) == found.argmax(-1)).float().mean()
        assert same > 0.9


def test_a_cache_changes_little(pair: tuple[TransformerModel, TransformerModel]) -> None:
    small = pair[1]
    text = torch.tensor(list(TEXT))[None, :24]
    with torch.inference_mode():
        whole = small(text)
        cache = small.new_cache(1, 24)
        steps = [small(text[:, place : place + 1], cache=cache) for place in range(24)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0.02, atol=0.1)


def test_layers_that_others_compute_with_stay() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 2)
            self.first = nn.Linear(32, 32)
            self.second = self.first

    mixed = Mixed()
    assert quantise_layers(mixed).layers == 1
    assert isinstance(mixed.first, Int8Linear)
    assert mixed.second is mixed.first
    assert isinstance(mixed.attention.out_proj, nn.Linear)


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="no linear layers"):
        quantise_layers(nn.Sequential(nn.Embedding(4, 4)))


def test_int8_is_refused_anywhere_but_on_a_cpu() -> None:
    assert resolve_dtype("int8", "cpu") == "int8"
    for device in ("cuda:0", "mps"):
        with pytest.raises(UsageError, match=f"for the CPU, and the device is {device}") as caught:
            resolve_dtype("int8", device)
        assert "--device cpu" in str(caught.value)


@pytest.mark.parametrize(("speed", "told"), [(0.5, True), (0.95, False), (2.0, False)])
def test_a_cpu_on_which_int8_only_saves_memory_is_told(speed: float, told: bool) -> None:
    summary = Int8Summary(layers=1, bytes_before=4, bytes_after=1, model_bytes=1, speed=speed)
    assert (summary.slowdown is not None) is told
    if summary.slowdown is not None:
        assert "2.0 times as long as in fp32" in summary.slowdown
