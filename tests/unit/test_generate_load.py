"""Loading a checkpoint without a training engine, and texts from it, with the real transformer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_slices import slice_up
from generate_parts import make_model, make_trained_run

from llmforge.errors import CheckpointError, RecipeError, UsageError
from llmforge.generation import generate_texts, open_checkpoint
from llmforge.generation.load import resolve_device, resolve_dtype

PROMPTS = ["The history of", "a", "Zwölf Boxkämpfer", ""]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_trained_run(tmp_path / "runs", "run-1")
    return tmp_path / "runs"


def test_a_checkpoint_brings_its_own_weights_recipe_and_tokenizer(root: Path) -> None:
    for address, step in (("run-1", 1), ("run-1@last", 2)):
        loaded = open_checkpoint(address, root=root, device="cpu")
        expected = dict(make_model(step).named_parameters())
        found = dict(loaded.model.named_parameters())
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert loaded.checkpoint.step == step
        assert loaded.tokenizer.decode(loaded.tokenizer.encode("é")) == "é"
        assert loaded.recipe.context == loaded.model.context == 64
        assert (loaded.run.id, loaded.device, loaded.dtype) == ("run-1", "cpu", "fp32")
        assert not loaded.model.training  # type: ignore[attr-defined]


def test_a_checkpoint_in_slices_brings_the_same_weights(root: Path) -> None:
    slice_up(root / "run-1" / "checkpoints" / "step-00000002", 3)
    found = dict(open_checkpoint("run-1@last", root=root, device="cpu").model.named_parameters())
    expected = dict(make_model(2).named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_checkpoint_works_without_its_run(root: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(root / "run-1" / "checkpoints" / "step-00000002", alone)
    shutil.rmtree(root)
    loaded = open_checkpoint(str(alone), root=root, device="cpu")
    assert generate_texts(loaded, ["a"])[0].tokens > 0


def test_plugins_that_only_training_needs_may_be_missing(tmp_path: Path) -> None:
    make_trained_run(tmp_path, "run-2", extra='\n[callback]\nnames = ["not-installed"]\n')
    assert open_checkpoint("run-2", root=tmp_path, device="cpu").checkpoint.step == 1


def test_bfloat16_weights_are_loaded_and_generate(root: Path) -> None:
    loaded = open_checkpoint("run-1", root=root, device="cpu", dtype="bf16")
    assert {parameter.dtype for _, parameter in loaded.model.named_parameters()} == {torch.bfloat16}
    assert loaded.dtype == "bf16"
    assert len(generate_texts(loaded, PROMPTS, max_new_tokens=90)) == len(PROMPTS)


def test_legacy_weights_replace_the_checkpoints(root: Path, tmp_path: Path) -> None:
    other = {"module." + name: value.detach() for name, value in make_model(7).named_parameters()}
    torch.save({"state_dict": other}, tmp_path / "old.pt")
    loaded = open_checkpoint("run-1", root=root, device="cpu", weights=tmp_path / "old.pt")
    assert torch.equal(loaded.model.embedding.weight, other["module.embedding.weight"])  # type: ignore[attr-defined]


def test_a_damaged_checkpoint_is_refused(root: Path) -> None:
    file = root / "run-1" / "checkpoints" / "step-00000002" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors was altered"):
        open_checkpoint("run-1@last", root=root, device="cpu")


@pytest.mark.parametrize(
    "options",
    [{"greedy": True}, {"temperature": 1.0}, {"temperature": 1.0, "max_new_tokens": 150}],
)
def test_the_cache_of_the_transformer_changes_no_text(root: Path, options: dict[str, Any]) -> None:
    """In a batch with a cache, alone with a cache, and computing everything again."""
    loaded = open_checkpoint("run-1", root=root, device="cpu")
    together = [item.text for item in generate_texts(loaded, PROMPTS, samples=2, **options)]
    alone = [
        item.text
        for prompt in PROMPTS
        for item in generate_texts(loaded, [prompt], samples=2, **options)
    ]
    loaded.model.new_cache = None  # type: ignore[method-assign, assignment]
    again = [item.text for item in generate_texts(loaded, PROMPTS, samples=2, **options)]
    assert together == alone == again
    assert len(set(together)) > 1


def test_the_recipes_options_hold_until_others_are_given(root: Path) -> None:
    loaded = open_checkpoint("run-1", root=root, device="cpu")
    (found,) = generate_texts(loaded, ["a"], temperature=1e-3)
    assert found.tokens <= 12
    (longer,) = generate_texts(loaded, ["a"], temperature=1e-3, max_new_tokens=13)
    assert longer.text.startswith(found.text.rstrip("\ufffd"))


def test_every_wrong_option_is_reported_with_its_nearest_name(root: Path) -> None:
    loaded = open_checkpoint("run-1", root=root, device="cpu")
    with pytest.raises(RecipeError) as caught:
        generate_texts(loaded, ["a"], temprature=1.0, top_p=2.0)
    assert [problem.key for problem in caught.value.problems] == [
        "generation.sampler.top_p",
        "generation.sampler.temprature",
    ]
    assert "did you mean 'temperature'?" in str(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:0"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match=device):
        resolve_device(device)


def test_a_number_format_that_is_none_is_refused() -> None:
    assert resolve_dtype("auto", "cpu") == "fp32"
    with pytest.raises(UsageError, match="fp8"):
        resolve_dtype("fp8", "cpu")
