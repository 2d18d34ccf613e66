"""The display name of a run, and its tags in trackers."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from llmforge.errors import RecipeError
from llmforge.recipe import Recipe, load_recipe
from llmforge.run.plan import make_plan
from llmforge.run.setup.run_record import display_name, model_name, open_record, tracker_tags
from llmforge.rundir import write_record

RECIPE = """\
[run]
tags = ["mine"]
[model]
name = "transformer"
[model.transformer]
context = 16
[data]
name = "text"
[data.text]
path = "x.txt"
[train]
max_steps = 5
[profile.test]
train.max_steps = 2
"""
TIME = datetime(2026, 3, 4, 5, 6, 7).timestamp()


def recipe(directory: Path, *, profile: str | None = None, **settings: Any) -> Recipe:
    path = directory / "recipe.toml"
    path.write_text(RECIPE)
    return load_recipe(path, profile=profile, overrides={"run": settings})


def name(of: Recipe) -> str:
    return display_name(of, run_id="the-id", time=TIME)


def test_by_default_it_tells_model_profile_and_time(tmp_path: Path) -> None:
    assert name(recipe(tmp_path, profile="test")) == "transformer-test-20260304-050607"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{model}-{profile}-{timestamp}", "transformer-20260304-050607"),
        ("{profile}-{run_id}", "the-id"),
        ("try {profile}", "try"),
        ("{profile}", "the-id"),
        ("", "the-id"),
        ("a--b {model}", "a--b transformer"),
    ],
)
def test_without_a_profile_its_separator_goes_too(
    tmp_path: Path, template: str, expected: str
) -> None:
    assert name(recipe(tmp_path, name=template)) == expected


@pytest.mark.parametrize("template", ["{modle}", "{model", "model}", "{}", "{model.name}"])
def test_what_cannot_be_filled_in_is_a_problem_of_the_recipe(tmp_path: Path, template: str) -> None:
    with pytest.raises(RecipeError, match=r"run\.name.*known: \{model\}"):
        recipe(tmp_path, name=template)


def test_a_preset_counts_as_the_models_name_when_the_recipe_chooses_it(tmp_path: Path) -> None:
    assert model_name(recipe(tmp_path)) == "transformer"
    path = tmp_path / "preset.toml"
    path.write_text(RECIPE.replace("context = 16", 'preset = "tiny"'))
    assert model_name(load_recipe(path)) == "transformer-tiny"


def test_tags_are_the_recipes_and_model_profile_and_type_once_each(tmp_path: Path) -> None:
    tested = recipe(tmp_path, profile="test", tags=["mine", "test"])
    assert tracker_tags(tested, run_id="single_x") == ["mine", "test", "transformer", "single"]
    plain = recipe(tmp_path)
    assert tracker_tags(plain, run_id="tune_8_32") == ["mine", "transformer", "trial"]


def test_the_name_of_the_first_start_stays(tmp_path: Path) -> None:
    root = str(tmp_path / "runs")
    plan = make_plan(recipe(tmp_path, root=root, id="mine", name="first {run_id}"))
    record = open_record(plan)
    assert record.name == "first mine"
    plan.directory.path.mkdir(parents=True)
    write_record(plan.directory, dataclasses.replace(record, created=1.0))

    renamed = make_plan(recipe(tmp_path, root=root, id="mine", name="second"))
    assert open_record(renamed).name == "first mine"
