"""Statistics and distances of stored weights, against torch over the whole tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from checkpoint_slices import cut, write_sliced
from safetensors.torch import save_file
from torch import Tensor

from llmforge.checkpoint import StoredTensors
from llmforge.insight import tensor_statistics as statistics
from llmforge.insight.layers import layer_of, natural_order
from llmforge.insight.weight_distance import weight_distances


def weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "embedding.weight": (50, 8),
        "blocks.2.up.weight": (8, 30),
        "blocks.10.up.weight": (8, 30),
        "blocks.10.norm.weight": (8,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def stored(folder: Path, tensors: Mapping[str, Tensor]) -> StoredTensors:
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors")
    return StoredTensors.of_file(folder / "model.safetensors")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every tensor be read in several blocks."""
    monkeypatch.setattr(statistics, "BLOCK", 37)


def test_statistics_are_those_of_the_whole_tensor(tmp_path: Path) -> None:
    tensors = weights(0) | {"half": weights(1)["embedding.weight"].bfloat16()}
    for item in statistics.tensor_statistics(stored(tmp_path / "a", tensors)):
        whole = tensors[item.name].double()
        assert item.shape == whole.shape
        assert item.norm == pytest.approx(float(whole.norm()))
        assert item.mean == pytest.approx(float(whole.mean()))
        assert item.std == pytest.approx(float(whole.std(correction=0)))
        assert item.nonfinite == 0
    assert item.dtype == "BF16"


def test_values_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    tensor = torch.ones(100)
    tensor[[3, 50]] = torch.tensor([math.nan, -math.inf])
    (found,) = statistics.tensor_statistics(stored(tmp_path / "a", {"w": tensor}))
    assert (found.nonfinite, found.mean, found.std) == (2, 1.0, 0.0)
    assert found.norm == pytest.approx(math.sqrt(98))
    nothing = stored(tmp_path / "b", {"w": torch.full((4,), math.nan)})
    (found,) = statistics.tensor_statistics(nothing)
    assert (found.nonfinite, found.mean, found.std, found.norm) == (4, None, None, 0.0)


def test_slices_of_ranks_have_the_statistics_of_the_whole(tmp_path: Path) -> None:
    tensors = weights(0)
    whole = list(statistics.tensor_statistics(stored(tmp_path / "a", tensors)))
    (tmp_path / "b").mkdir()
    sliced = StoredTensors.of_index(write_sliced(tmp_path / "b", cut(tensors, 3)))
    for one, other in zip(whole, statistics.tensor_statistics(sliced), strict=True):
        assert (one.name, one.shape) == (other.name, other.shape)
        assert one.norm == pytest.approx(other.norm)


def test_distances_are_those_of_the_whole_layer(tmp_path: Path) -> None:
    first, second = weights(0), weights(0)
    second["blocks.2.up.weight"] = first["blocks.2.up.weight"] * 1.5
    second["blocks.10.norm.weight"] = -first["blocks.10.norm.weight"]
    found = weight_distances(stored(tmp_path / "a", first), stored(tmp_path / "b", second))
    layers = {item.name: item for item in found.layers}
    a = torch.cat([first[name].flatten() for name in first if "blocks.10" in name]).double()
    b = torch.cat([second[name].flatten() for name in first if "blocks.10" in name]).double()
    assert layers["blocks.10"].relative == pytest.approx(float((a - b).norm() / a.norm()))
    assert layers["blocks.10"].cosine == pytest.approx(
        float(torch.nn.functional.cosine_similarity(a, b, dim=0))
    )
    assert layers["blocks.2"].relative == pytest.approx(0.5)
    assert layers["blocks.2"].cosine == pytest.approx(1.0)
    assert layers["embedding"].relative == 0.0
    assert [item.name for item in found.tensors] == [
        "blocks.10.norm.weight",
        "blocks.2.up.weight",
        "blocks.10.up.weight",
        "embedding.weight",
    ]
    assert found.total.parameters == sum(tensor.numel() for tensor in first.values())


def test_of_different_architectures_what_both_have_is_compared(tmp_path: Path) -> None:
    first, second = weights(0), weights(1)
    del second["blocks.10.up.weight"]
    second["head.weight"] = torch.ones(3)
    second["embedding.weight"] = torch.ones(60, 8)
    found = weight_distances(stored(tmp_path / "a", first), stored(tmp_path / "b", second))
    assert {item.name for item in found.tensors} == {"blocks.2.up.weight", "blocks.10.norm.weight"}
    assert found.only_first == ("blocks.10.up.weight",)
    assert found.only_second == ("head.weight",)
    assert found.reshaped == ("embedding.weight",)


def test_zeros_and_nan_have_distances_too(tmp_path: Path) -> None:
    first = {"same": torch.zeros(3), "grown": torch.zeros(3), "broken": torch.ones(3)}
    second = {
        "same": torch.zeros(3),
        "grown": torch.ones(3),
        "broken": torch.tensor([1, math.nan, 1]),
    }
    found = weight_distances(stored(tmp_path / "a", first), stored(tmp_path / "b", second))
    distances = {item.name: item for item in found.tensors}
    assert (distances["same"].relative, distances["same"].cosine) == (0.0, None)
    assert distances["grown"].relative is None
    assert math.isnan(distances["broken"].relative or 0)
    assert math.isnan(distances["broken"].cosine or 0)
    assert found.tensors[-1].name == "same"


def test_layers_are_named_by_their_number() -> None:
    assert layer_of("blocks.3.attention.qkv.weight") == "blocks.3"
    assert layer_of("transformer.h.0.attn.c_attn.lora_A.default.weight") == "transformer.h.0"
    assert layer_of("embedding.weight") == "embedding"
    assert layer_of("scale") == "scale"
    names = ["blocks.10.w", "blocks.2.w", "a.w"]
    assert sorted(names, key=natural_order) == ["a.w", "blocks.2.w", "blocks.10.w"]
