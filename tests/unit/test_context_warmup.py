"""Shorter windows at the beginning: how long they are, what they hold, and when that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmforge.errors import RecipeError
from llmforge.recipe import Recipe, load_recipe
from llmforge.run.training.context_warmup import ContextWarmup

TEXT = """
[model]
name = "transformer"
[model.transformer]
context = {context}
[data]
name = "{data}"
[data.text]
train = "t.txt"
[data.instruct]
train = "text.json"
[train]
max_steps = 20
context_warmup_steps = {steps}
context_warmup_from = {begin}
"""


def recipe(
    path: Path, *, context: int = 64, data: str = "text", steps: int = 6, begin: int = 16
) -> Recipe:
    file = path / "recipe.toml"
    file.write_text(TEXT.format(context=context, data=data, steps=steps, begin=begin))
    return load_recipe(file)


def test_the_shorter_lengths_share_the_steps_equally(tmp_path: Path) -> None:
    warmup = ContextWarmup(recipe(tmp_path))
    assert [warmup.length(step) for step in range(8)] == [16, 16, 16, 32, 32, 32, 64, 64]


@pytest.mark.parametrize("settings", [{"steps": 0, "begin": 48}, {"begin": 64}])
def test_without_it_a_batch_is_left_alone(tmp_path: Path, settings: dict[str, int]) -> None:
    batch = {"inputs": torch.zeros(2, 64)}
    assert ContextWarmup(recipe(tmp_path, **settings)).cut(batch, 0) is batch


def test_a_step_has_the_same_tokens_in_more_rows(tmp_path: Path) -> None:
    warmup = ContextWarmup(recipe(tmp_path))
    ids = torch.arange(2 * 65).view(2, 65)
    cut = warmup.cut({"inputs": ids[:, :-1], "targets": ids[:, 1:]}, 0)
    assert cut["inputs"].shape == (8, 16)
    assert torch.equal(cut["targets"], cut["inputs"] + 1)
    assert torch.equal(cut["inputs"].flatten(), ids[:, :-1].flatten())


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"begin": 24}, "from", "doubling 24 does not lead to the model's context of 64"),
        ({"begin": 128}, "from", "doubling 128 does not lead to the model's context of 64"),
        ({"data": "instruct"}, "steps", "has examples and no running text"),
    ],
)
def test_windows_that_cannot_be_cut_are_refused(
    tmp_path: Path, settings: dict[str, int], key: str, words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, **settings)  # type: ignore[arg-type]
    (problem,) = caught.value.problems
    assert problem.key == f"train.context_warmup_{key}"
    assert words in problem.message
    assert key == "steps" or problem.remedy == "one of 32, 16, 8, 4"
