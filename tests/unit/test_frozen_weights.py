"""Weights that are in no checkpoint: their hash, and what is trained over others is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_drafts import save
from torch import nn

from llmforge.checkpoint import (
    CheckpointWriter,
    FrozenWeights,
    Retention,
    SaveRequest,
    SelfDescription,
    open_checkpoint,
)
from llmforge.checkpoint.frozen_weights import (
    frozen_parameters,
    hash_tensors,
    require_same_weights,
)
from llmforge.checkpoint.manifest import decode_manifest, encode_manifest
from llmforge.errors import CheckpointError
from llmforge.interfaces import EngineState
from llmforge.run.setup.model_build import BuiltModel
from llmforge.run.setup.resume_point import StartingPoint, load_into
from llmforge.run.trainer_state import TrainerState

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1, dtype=torch.int64)}
FROZEN = FrozenWeights(sha256="ab" * 32, parameters=7, source="gpt2 (folder /models/gpt2), seed 1")


def test_the_hash_does_not_depend_on_order_memory_layout_or_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turned = torch.arange(6.0).reshape(2, 3).t().contiguous().t()
    assert not turned.is_contiguous()
    expected = hash_tensors(TENSORS)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert hash_tensors({"a": TENSORS["a"], "b": turned}) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"b": TENSORS["b"] + 1e-6, "a": TENSORS["a"]},
        {"b": TENSORS["b"].reshape(3, 2), "a": TENSORS["a"]},
        {"b": TENSORS["b"], "c": TENSORS["a"]},
        {"b": TENSORS["b"].view(torch.int32), "a": TENSORS["a"]},
        {"b": TENSORS["b"]},
    ],
    ids=["bytes", "shape", "name", "type", "fewer"],
)
def test_the_hash_follows_names_shapes_types_and_bytes(other: dict[str, torch.Tensor]) -> None:
    assert hash_tensors(other) != hash_tensors(TENSORS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.bool])
def test_every_type_of_weights_can_be_hashed(dtype: torch.dtype) -> None:
    assert len(hash_tensors({"w": torch.ones(3, 2).to(dtype), "none": torch.ones(0)})) == 64


def test_frozen_is_what_requires_no_gradient() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert frozen_parameters(model).keys() == {"bias"}


def test_other_weights_are_refused_with_both_and_what_to_do() -> None:
    other = dataclasses.replace(FROZEN, sha256="cd" * 32, source="gpt2 (folder /tmp/x), seed 1")
    with pytest.raises(CheckpointError) as caught:
        require_same_weights(FROZEN, other, owner="checkpoint step-00000004")
    text = str(caught.value)
    assert "checkpoint step-00000004 was trained over other frozen weights" in text
    assert "expected gpt2 (folder /models/gpt2), seed 1, sha256 abababababab" in text
    assert "found gpt2 (folder /tmp/x), seed 1, sha256 cdcdcdcdcdcd" in text
    assert "put the weights back" in text


def test_a_model_without_frozen_weights_is_not_what_was_adapted() -> None:
    with pytest.raises(CheckpointError, match="the model that was built has none"):
        require_same_weights(FROZEN, None, owner="checkpoint step-00000004")


def test_what_has_all_its_weights_asks_for_none() -> None:
    require_same_weights(None, None, owner="checkpoint")
    require_same_weights(None, FROZEN, owner="checkpoint")
    require_same_weights(FROZEN, dataclasses.replace(FROZEN, source="moved"), owner="checkpoint")


def test_a_manifest_names_them_and_is_not_for_those_who_do_not_know_them(tmp_path: Path) -> None:
    (saved,) = save(tmp_path, 1)
    plain = saved.manifest
    assert (plain.frozen, plain.format_version) == (None, 1)
    assert b"frozen" not in encode_manifest(plain)
    adapted = dataclasses.replace(plain, frozen=FROZEN)
    read = decode_manifest(encode_manifest(adapted), saved.path)
    assert (read.frozen, read.format_version, read.files) == (FROZEN, 2, plain.files)


class Engine:
    """Takes over what it is given."""

    state: EngineState

    def load_state(self, state: EngineState) -> None:
        """Keep it."""
        self.state = state


def older_checkpoint(directory: Path, weights: dict[str, torch.Tensor]) -> StartingPoint:
    """Return where a run resumes whose checkpoint has all weights, as they once had."""
    with CheckpointWriter(
        directory,
        description=SelfDescription(recipe="", recipe_hash="0" * 64),
        retention=Retention(keep_last=1, keep_best=0),
        on_saved=lambda _: None,
    ) as writer:
        writer.submit(
            SaveRequest(step=1, model=weights, optimizer={}, trainer={}, metadata={}, required=True)
        )
    checkpoint = open_checkpoint(directory / "step-00000001")
    return StartingPoint(state=TrainerState(), engine_values={}, checkpoint=checkpoint)


def test_an_older_checkpoint_with_all_weights_resumes_over_the_same(tmp_path: Path) -> None:
    tmp_path.joinpath("run").mkdir()
    weights = {"trained": torch.ones(2), "fixed": torch.arange(3.0)}
    point = older_checkpoint(tmp_path / "run", weights)
    frozen = FrozenWeights(
        sha256=hash_tensors({"fixed": torch.arange(3.0)}), parameters=3, source="here"
    )
    built = BuiltModel(
        parameters=5,
        trainable=2,
        adapter=None,
        frozen=frozen,
        frozen_names=frozenset({"fixed"}),
    )
    engine: Any = Engine()
    load_into(engine, point, built=built)
    assert set(engine.state.model) == {"trained"}
    other = dataclasses.replace(built, frozen=dataclasses.replace(frozen, sha256="0" * 64))
    with pytest.raises(CheckpointError, match="other frozen weights"):
        load_into(engine, point, built=other)
