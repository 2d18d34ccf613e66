"""Histograms: every value counted once, edges that rise, nothing changed."""

from __future__ import annotations

import itertools

import pytest
import torch

from llmforge.run.training import loop_outputs
from llmforge.run.training.loop_outputs import BINS, histograms


def one(tensor: torch.Tensor) -> dict:
    (found,) = histograms({"w": tensor}, group="weights").values()
    return found


def rises(edges: list[float]) -> bool:
    return all(left < right for left, right in itertools.pairwise(edges))


def test_counts_and_edges_are_those_of_numpy() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    found = one(values.reshape(100, 100))
    counts, edges = torch.histogram(values, BINS)
    assert len(found["counts"]) == BINS
    assert found["edges"] == pytest.approx(edges.tolist(), rel=1e-5, abs=1e-6)
    off = [abs(a - b) for a, b in zip(found["counts"], counts.tolist(), strict=True)]
    assert sum(off) <= 4  # a value on an edge may fall to either side
    assert sum(found["counts"]) == 10_000


def test_names_say_what_was_counted() -> None:
    found = histograms({"a": torch.ones(2), "b": torch.zeros(2)}, group="gradients")
    assert set(found) == {"gradients/a", "gradients/b"}


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-20, 1e20])
def test_equal_values_have_edges_around_them(value: float) -> None:
    found = one(torch.full((7,), value))
    assert sum(found["counts"]) == 7
    assert rises(found["edges"])
    assert found["edges"][0] <= value <= found["edges"][-1]


def test_nearly_equal_values_have_edges_that_rise() -> None:
    found = one(torch.tensor([1.0, 1.0 + 2**-23]))
    assert rises(found["edges"])
    assert sum(found["counts"]) == 2


def test_values_that_are_not_finite_are_left_out() -> None:
    inf = float("inf")
    found = one(torch.tensor([1.0, float("nan"), 2.0, inf, -inf]))
    assert sum(found["counts"]) == 2
    assert (found["edges"][0], found["edges"][-1]) == (1.0, 2.0)
    nothing = {"a": torch.tensor([float("nan"), inf]), "b": torch.empty(0)}
    assert histograms(nothing, group="gradients") == {}


def test_large_tensors_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_outputs, "_CHUNK", 1000)
    assert sum(one(torch.arange(12_345.0))["counts"]) == 12_345


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_counted_as_it_is(dtype: torch.dtype) -> None:
    found = one(torch.tensor([0.5, 1.0, 1.5], dtype=dtype))
    assert (sum(found["counts"]), found["edges"][0], found["edges"][-1]) == (3, 0.5, 1.5)


def test_the_tensor_stays_as_it_is() -> None:
    tensor = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    before = tensor.detach().clone()
    histograms({"w": tensor}, group="weights")
    assert torch.equal(tensor.detach(), before)
    assert tensor.grad is None
