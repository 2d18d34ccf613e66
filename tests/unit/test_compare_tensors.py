"""The tensors of two checkpoints are compared by their bits, or within a tolerance."""

from __future__ import annotations

from pathlib import Path

import torch
from checkpoint_drafts import content
from safetensors.torch import save
from torch import Tensor

from llmforge.checkpoint.publish import Draft, publish
from llmforge.proof.certificate import Difference
from llmforge.proof.compare_tensors import different_tensors


def checkpoint(path: Path, **tensors: Tensor) -> Path:
    files = {"model.safetensors": content(save(tensors))}
    return publish(path, draft=Draft(step=4, recipe_hash="0", files=files)).path


def differences(
    tmp_path: Path, mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 0.0
) -> list[Difference]:
    paths = [checkpoint(tmp_path / name, **item) for name, item in (("a", mine), ("b", theirs))]
    return list(different_tensors(*paths, part="model", step=4, tolerance=tolerance))


def test_equal_bits_are_no_difference(tmp_path: Path) -> None:
    values = torch.tensor([1.0, float("nan"), -0.0])
    assert differences(tmp_path, {"w": values}, {"w": values.clone()}) == []


def test_the_largest_difference_is_given(tmp_path: Path) -> None:
    mine = torch.tensor([1.0, 2.0, 3.0])
    theirs = torch.tensor([1.0, 2.5, 3.25])
    (found,) = differences(tmp_path, {"v": mine.clone(), "w": mine}, {"v": mine, "w": theirs})
    assert (found.step, found.name, found.largest) == (4, "w", 0.5)
    assert found.what == "2 of 3 values differ"


def test_a_zero_of_the_other_sign_differs_by_nothing_and_differs(tmp_path: Path) -> None:
    (found,) = differences(tmp_path, {"w": torch.tensor([0.0])}, {"w": torch.tensor([-0.0])})
    assert found.largest == 0.0


def test_within_the_tolerance_of_the_largest_value_is_no_difference(tmp_path: Path) -> None:
    mine, theirs = {"w": torch.tensor([100.0, 0.0])}, {"w": torch.tensor([100.0, 0.05])}
    assert differences(tmp_path / "1", mine, theirs, 1e-3) == []
    assert len(differences(tmp_path / "2", mine, theirs, 1e-4)) == 1


def test_other_names_shapes_and_types_are_told(tmp_path: Path) -> None:
    mine = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}
    theirs = {"b": torch.zeros(3), "c": torch.zeros(2, dtype=torch.bfloat16), "d": torch.zeros(1)}
    found = {item.name: item.what for item in differences(tmp_path, mine, theirs)}
    assert found["a"] == "is missing"
    assert found["b"] == "(3,) of torch.float32, not (2,) of torch.float32"
    assert "torch.bfloat16" in found["c"]
    assert found["d"] == "is not in the other one"


def test_whole_numbers_are_compared_too(tmp_path: Path) -> None:
    (found,) = differences(tmp_path, {"n": torch.tensor([3])}, {"n": torch.tensor([5])})
    assert found.largest == 2.0
