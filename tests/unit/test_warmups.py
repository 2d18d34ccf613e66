"""Smaller batches and shorter windows at the beginning: how large, what of, and when not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmforge.errors import RecipeError
from llmforge.ramp import Ramp
from llmforge.recipe import load_recipe
from llmforge.run.training.context_warmup import shorter_windows

TEXT = """
[model]
name = "transformer"
[model.transformer]
context = 64
[data]
name = "{data}"
[data.text]
train = "t.txt"
[data.instruct]
train = "text.json"
[train]
max_steps = 20
batch_size = 24
{keys}
"""


@pytest.mark.parametrize(
    ("ramp", "values"),
    [
        (Ramp(64, begin=16, steps=6), [16, 16, 16, 32, 32, 32, 64, 64]),
        (Ramp(8, begin=1, steps=7), [1, 1, 1, 2, 2, 4, 4, 8]),
        (Ramp(64, begin=8, steps=2), [8, 16, 64, 64]),
        (Ramp(64, begin=64, steps=5), [64, 64]),
        (Ramp(64, begin=8), [64, 64]),
    ],
)
def test_the_stages_share_the_steps_equally(ramp: Ramp, values: list[int]) -> None:
    assert [ramp.at(step) for step in range(len(values))] == values
    sums = [sum(values[:step]) for step in range(len(values) + 1)]
    assert [ramp.before(step) for step in range(len(sums))] == sums
    assert [ramp.steps_to(total) for total in sums] == list(range(len(sums)))
    assert [ramp.steps_to(total + 1) for total in sums] == list(range(1, len(sums) + 1))


@pytest.mark.parametrize("step", [6, 100])
def test_whole_windows_are_left_alone(step: int) -> None:
    batch = {"inputs": torch.zeros(2, 64)}
    assert shorter_windows(batch, Ramp(64, begin=16, steps=6), step) is batch


def test_a_step_has_the_same_tokens_in_more_rows() -> None:
    ids = torch.arange(2 * 65).view(2, 65)
    batch = {"inputs": ids[:, :-1], "targets": ids[:, 1:]}
    cut = shorter_windows(batch, Ramp(64, begin=16, steps=6), 0)
    assert cut["inputs"].shape == (8, 16)
    assert torch.equal(cut["targets"], cut["inputs"] + 1)
    assert torch.equal(cut["inputs"].flatten(), ids[:, :-1].flatten())


def test_batches_grow_to_the_size_of_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    keys = "batch_warmup_steps = 6\nbatch_warmup_from = 6"
    file.write_text(TEXT.format(data="text", keys=keys))
    sizes = load_recipe(file).train.batch_sizes
    assert [sizes.at(step) for step in (0, 2, 3, 5, 6, 19)] == [6, 6, 12, 12, 24, 24]


@pytest.mark.parametrize(
    ("data", "keys", "key", "message", "remedy"),
    [
        (
            "text",
            "context_warmup_steps = 6\ncontext_warmup_from = 24",
            "context_warmup_from",
            "doubling 24 does not lead to 64, the model's context",
            "one of 32, 16, 8, 4",
        ),
        (
            "text",
            "context_warmup_steps = 6\ncontext_warmup_from = 128",
            "context_warmup_from",
            "doubling 128 does not lead to 64, the model's context",
            "one of 32, 16, 8, 4",
        ),
        (
            "instruct",
            "context_warmup_steps = 6",
            "context_warmup_steps",
            "data 'instruct' has examples and no running text",
            "take it out",
        ),
        (
            "text",
            "batch_warmup_steps = 6",
            "batch_warmup_from",
            "is missing",
            "one of 12, 6, 3",
        ),
        (
            "text",
            "batch_warmup_steps = 6\nbatch_warmup_from = 8",
            "batch_warmup_from",
            "doubling 8 does not lead to 24, batch_size",
            "one of 12, 6, 3",
        ),
        (
            "instruct",
            "batch_warmup_steps = 6\nbatch_warmup_from = 12",
            "batch_warmup_steps",
            "data 'instruct' has examples and no running text",
            "take it out",
        ),
    ],
)
def test_what_cannot_begin_smaller_is_refused(
    tmp_path: Path, data: str, keys: str, key: str, message: str, remedy: str
) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(TEXT.format(data=data, keys=keys))
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    (problem,) = caught.value.problems
    assert (problem.key, problem.message) == (f"train.{key}", message)
    assert problem.remedy == remedy
