"""Every recipe that comes with llmforge is valid with every profile, and cheap to check."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmforge.recipe import identity, load_generation, load_recipe, run_id
from llmforge.recipe.load import only_generates, profiles_of
from llmforge.recipe.shipped import ShippedRecipe, copy_shipped, shipped_names, shipped_recipes

TRAINING = [name for name in shipped_names() if not only_generates(name)]
CASES = [(name, profile) for name in TRAINING for profile in (None, *profiles_of(name))]


@pytest.mark.parametrize(("name", "profile"), CASES)
def test_a_shipped_recipe_is_valid(name: str, profile: str | None) -> None:
    recipe = load_recipe(name, profile=profile)
    assert re.fullmatch(r"single_bs\d+_cw\d+_lr\d(\.\d+)?e-\d\d-[0-9a-f]{6}", run_id(recipe))


@pytest.mark.parametrize("name", TRAINING)
def test_a_shipped_recipe_has_the_three_usual_profiles(name: str) -> None:
    assert {"test", "development", "production"} <= set(profiles_of(name))


def test_the_generation_recipe_is_valid_without_a_model() -> None:
    recipe = load_generation("generate")
    assert recipe.generation.prompts
    assert recipe.generation.checkpoint is None


def test_profile_classic_has_the_id_of_the_old_scripts() -> None:
    recipe = load_recipe("wikitext_tiny", profile="classic")
    assert run_id(recipe) == f"single_bs4_cw16_lr1e-03-{identity(recipe).hash[:6]}"


def test_wikitext2_has_the_customary_values() -> None:
    tables = load_recipe("wikitext2").tables
    model = tables["model"]["transformer"]
    wanted = {
        "layers": 4,
        "width": 256,
        "heads": 4,
        "feed_forward": 1024,
        "context": 128,
        "dropout": 0.1,
    }
    assert wanted.items() <= model.items()
    assert {"epochs": 3.0, "batch_size": 2, "grad_clip": 1.0, "device": "cpu"}.items() <= tables[
        "train"
    ].items()
    assert {"lr": 3e-4, "weight_decay": 0.01}.items() <= tables["optimizer"]["adamw"].items()
    schedule = tables["schedule"]["cosine"]
    assert (schedule["warmup_steps"], schedule["total_steps"]) == (300, 3000)
    assert tables["early_stopping"]["patience"] == 2
    assert tables["eval"]["every"] == tables["checkpoint"]["every"] == "1 epoch"
    gpu = load_recipe("wikitext2", profile="gpu")
    wide = {"layers": 6, "width": 512, "heads": 8, "feed_forward": 2048}
    assert gpu.train.batch_size == 32
    assert wide.items() <= gpu.tables["model"]["transformer"].items()


def test_neox_has_the_customary_values() -> None:
    recipe = load_recipe("neox_1_2b")
    shape = recipe.selected("model").options.shape()
    assert (shape.layers, shape.width, shape.heads, shape.context) == (24, 2048, 16, 2048)
    assert recipe.tables["data"]["tokens"]["vocab_size"] == 50_257
    assert recipe.learning_rate == 2e-4
    for profile, steps, micro, save, log in (
        ("test", 100, 1, 50, 10),
        ("production", 10_000, 4, 500, 100),
    ):
        recipe = load_recipe("neox_1_2b", profile=profile)
        assert (recipe.train.max_steps, recipe.train.micro_batch_size) == (steps, micro)
        assert (recipe.checkpoint.every, recipe.train.log_every) == (save, log)
        assert (recipe.checkpoint.keep_last, recipe.storage.archive) == (3, "tar.gz")
        assert recipe.storage.background
    assert load_recipe("neox_1_2b", profile="test").tables["data"]["tokens"]["max_files"] == 5
    smoke = load_recipe("neox_1_2b", profile="smoke").selected("model").options.shape()
    assert (smoke.layers, smoke.width, smoke.parallel_residual) == (2, 256, True)


def test_a_copied_recipe_still_finds_what_it_extends(tmp_path: Path) -> None:
    copied = copy_shipped("custom_small", destination=tmp_path)
    assert identity(load_recipe(copied)) == identity(load_recipe("custom_small"))


def test_every_shipped_recipe_describes_itself() -> None:
    for item in shipped_recipes():
        assert 10 < len(item.description) <= 84, item.name


def test_the_large_recipe_says_its_true_parameter_counts() -> None:
    text = next(item for item in shipped_recipes() if item.name == "neox_1_2b").path.read_text()
    for preset in ("neox-1.2b", "neox-1b"):
        recipe = load_recipe("neox_1_2b", overrides=[f'model.transformer.preset="{preset}"'])
        shape = recipe.selected("model").options.shape()
        assert f"{shape.parameters(50_257):,}" in text
    assert "1,208,598,528" in text


@pytest.mark.parametrize("item", [item for item in shipped_recipes() if "custom" in item.name])
def test_a_custom_recipe_says_its_true_parameter_count(item: ShippedRecipe) -> None:
    recipe = load_recipe(item.name)
    shape = recipe.selected("model").options.shape()
    count = shape.parameters(recipe.selected("tokenizer").options.vocab_size)
    assert f"{shape.layers} layers x {shape.width}, {count:,} parameters" in item.description


def test_checking_a_recipe_imports_no_heavy_package() -> None:
    code = f"""
import sys
from llmforge.recipe import load_generation, load_recipe, run_id
for name in {TRAINING!r}:
    run_id(load_recipe(name))
load_generation("generate")
heavy = {{"torch", "numpy", "tokenizers", "transformers", "tensorboard", "rich", "fsspec"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
