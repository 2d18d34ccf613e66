"""Weights by name: filling a model, and legacy files that may hold more than weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from llmforge.errors import CheckpointError
from llmforge.generation import load_legacy_weights
from llmforge.generation.weights import fill, load_weights


class Tied(nn.Module):
    """A model whose output matrix is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.embedding.weight
        self.norm = nn.LayerNorm(3)


class Trap:
    """Runs a command when it is unpickled the ordinary way."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch trapped",)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_legacy_weights_are_found_under_common_keys_and_prefixes(
    tmp_path: Path, key: str | None, prefix: str
) -> None:
    weights = weights_of(Tied())
    content: object = {prefix + name: tensor for name, tensor in weights.items()}
    if key:
        content = {key: content, "step": 7, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "old.pt")
    found = load_legacy_weights(tmp_path / "old.pt")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_safetensors_file_is_read_as_weights(tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in weights_of(Tied()).items()}
    save_file(weights, tmp_path / "new.safetensors")
    model = Tied()
    fill(model, load_weights(tmp_path / "new.safetensors"), source=tmp_path)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in weights_of(model).items())


def test_a_safetensors_file_of_other_shapes_does_not_fit(tmp_path: Path) -> None:
    save_file({"embedding.weight": torch.zeros(5, 4)}, tmp_path / "new.safetensors")
    with pytest.raises(CheckpointError, match=r"embedding\.weight is \[5, 4\], not \[5, 3\]"):
        fill(Tied(), load_weights(tmp_path / "new.safetensors"), source=tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 40])
def test_what_is_no_safetensors_file_is_a_clear_error(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "new.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"new\.safetensors cannot be read"):
        load_weights(tmp_path / "new.safetensors")


def test_a_file_that_would_run_code_is_refused_and_runs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": weights_of(Tied()), "args": Trap()}, "old.pt")
    with pytest.raises(CheckpointError, match="would run code") as caught:
        load_legacy_weights(Path("old.pt"))
    assert "state_dict" in caught.value.remedy
    assert not Path("trapped").exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="would run code"):
        load_legacy_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [[1, 2], {"step": 3}, {}, {"model": {"step": 1}}])
def test_a_file_without_weights_says_so(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="no weights"):
        load_legacy_weights(tmp_path / "old.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip"])
def test_a_file_that_is_none_of_torch_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "old.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"old\.pt does not hold weights"):
        load_legacy_weights(tmp_path / "old.pt")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_legacy_weights(tmp_path / "old.pt")


@pytest.mark.parametrize("name", ["embedding.weight", "output.weight"])
def test_one_name_of_a_shared_weight_is_enough(name: str) -> None:
    source, target = Tied(), Tied()
    tensors = weights_of(source)
    tensors[name] = tensors.pop("embedding.weight")
    fill(target, tensors, source=Path("here"))
    assert torch.equal(target.output.weight, source.embedding.weight)
    assert target.output.weight is target.embedding.weight


def test_weights_that_the_model_was_built_with_may_be_left_out() -> None:
    source, target = Tied(), Tied()
    before = target.embedding.weight.detach().clone()
    tensors = weights_of(source)
    del tensors["embedding.weight"]
    fill(target, tensors, source=Path("here"), built_in={"embedding.weight"})
    assert torch.equal(target.output.weight, before)
    assert torch.equal(target.norm.weight, source.norm.weight)
    del tensors["norm.bias"]
    with pytest.raises(CheckpointError, match=r"missing: norm\.bias$"):
        fill(target, tensors, source=Path("here"), built_in={"embedding.weight"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.bias": None}, "missing: norm.bias"),
        ({"embedding.weight": None}, "missing: embedding.weight"),
        ({"extra": torch.zeros(1)}, "unknown: extra"),
        ({"norm.bias": torch.zeros(4)}, r"norm\.bias is \[4\], not \[3\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_copied(
    change: dict[str, torch.Tensor | None], message: str
) -> None:
    model = Tied()
    before = {name: tensor.clone() for name, tensor in weights_of(model).items()}
    tensors = weights_of(Tied()) | change
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        fill(model, tensors, source=Path("here"))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(model).items())
