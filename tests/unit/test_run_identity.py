"""Which changes make another run, and how ids are spelled."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field
from recipe_parts import parts, parts_folder, write

from llmforge import plugins
from llmforge.options import Options
from llmforge.recipe import differing, identity, load_recipe, run_id, to_toml, trial_id
from llmforge.recipe.resolved import Recipe
from llmforge.recipe.run_identity import format_rate

__all__ = ["parts", "parts_folder"]  # fixtures


def load(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(write(folder / "r.toml"), overrides=list(overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["run.root=elsewhere"],
        ["run.name=x", "run.project=y", "run.tags=['z']", "run.log_level=debug"],
        ["train.stop_at=50", "train.log_every=1", "train.extend_to=200"],
        ["train.micro_batch_size=2", "train.device=cpu", "train.precision=bf16"],
        ["checkpoint.every=5", "checkpoint.keep_last=1"],
        ["tracker.names=['paper']", "tracker.paper.folder=x"],
        ["storage.url=s3://bucket/x"],
        ["generation.prompts=['a']", "generation.echo.times=9"],
        ["backend.here.workers=8"],
        ["model.toy.note=x", "model.toy.workers=4"],
        ["optimizer.other.damping=0.9"],
        ["model.toy.context=32", "optimizer.plain.momentum=0.9", "train.grad_clip=1"],
    ],
)
def test_safe_and_machine_changes_and_defaults_keep_the_run(
    parts: Path, overrides: list[str]
) -> None:
    assert identity(load(parts, *overrides)) == identity(load(parts))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("run.seed=8", "run.seed"),
        ("train.batch_size=8", "train.batch_size"),
        ("eval.every=10", "eval.every"),
        ("model.toy.width=17", "model.toy.width"),
        ("model.toy.layers=[1]", "model.toy.layers"),
        ("optimizer.plain.lr=2e-3", "optimizer.plain.lr"),
        ("optimizer.name=other", "optimizer.name"),
        ("tokenizer.words.vocab_size=99", "tokenizer.words.vocab_size"),
    ],
)
def test_identity_changes_make_another_run(parts: Path, override: str, key: str) -> None:
    before, after = identity(load(parts)), identity(load(parts, override))
    assert before.hash != after.hash
    assert key in [item.key for item in differing(before, after)]


def test_differences_name_the_key_and_both_values(parts: Path) -> None:
    before = identity(load(parts, "train.grad_clip=0.5"))
    after = identity(load(parts, "model.toy.width=99"))
    assert differing(before, after) == [
        ("model.toy.width", 16, 99),
        ("train.grad_clip", 0.5, None),
    ]


def test_an_integer_and_a_float_spelling_of_a_float_are_the_same(parts: Path) -> None:
    one = identity(load(parts, "train.grad_clip=2"))
    other = identity(load(parts, "train.grad_clip=2.0"))
    assert one == other
    assert one.keys["train.grad_clip"] == 2.0


def test_a_new_option_with_a_default_changes_no_hash(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(parts)
    cls = type(before.selected("model").options)

    class Nested(Options):
        depth: int = 1

    class Grown(cls):  # type: ignore[misc, valid-type]
        brand_new: int = 3
        nested: Nested = Nested()
        also_new: list[int] = Field(default_factory=list)
        limited: Annotated[int, Field(gt=0)] | None = None

    monkeypatch.setattr(plugins.load("model", "toy"), "Options", Grown)
    after = load(parts)
    assert "brand_new" in after.tables["model"]["toy"]
    assert identity(after) == identity(before)
    assert identity(load(parts, "model.toy.brand_new=4")) != identity(before)
    keys = identity(load(parts, "model.toy.nested.depth=2")).keys
    assert keys["model.toy.nested"] == {"depth": 2}


def test_the_schema_version_is_part_of_the_hash(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity(load(parts)).hash
    monkeypatch.setattr(sys.modules["llmforge.recipe.run_identity"], "SCHEMA_VERSION", 2)
    assert identity(load(parts)).hash != before


def test_the_hash_of_a_known_recipe_does_not_drift(parts: Path) -> None:
    """A change of this value orphans every existing run: raise SCHEMA_VERSION instead."""
    pinned = "6e20aa66f28f50d3e35b04e843f246875a90060d87d668fef9791c69d0edea12"
    assert identity(load(parts)).hash == pinned


def test_the_stored_recipe_has_the_identity_of_the_run(parts: Path) -> None:
    first = load(parts, "optimizer.plain.lr=1e-05", "model.toy.sizes=[4]", 'run.notes=é\n"x"')
    stored = parts / "stored.toml"
    stored.write_text(to_toml(first.tables), encoding="utf-8")
    assert identity(load_recipe(stored)) == identity(first)
    assert run_id(load_recipe(stored)) == run_id(first)


def test_ids_tell_the_main_sizes_and_end_in_the_hash(parts: Path) -> None:
    recipe = load(parts)
    digits = identity(recipe).hash[:6]
    assert re.fullmatch(r"[0-9a-f]{64}", identity(recipe).hash)
    assert run_id(recipe) == f"single_bs4_cw32_lr1e-03-{digits}"
    assert trial_id(recipe) == f"tune_4_32_1e-03-{digits}"


def test_an_id_of_ones_own_is_kept_but_not_for_trials(parts: Path) -> None:
    recipe = load(parts, "run.id=mine")
    assert run_id(recipe) == "mine"
    assert trial_id(recipe).startswith("tune_4_32_")
    assert identity(recipe) == identity(load(parts))


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1e-3, "1e-03"),
        (5e-4, "5e-04"),
        (1.5e-3, "1.5e-03"),
        (3.14159e-5, "3.14159e-05"),
        (1.0, "1e+00"),
        (1 / 3, "3.333333333333333e-01"),
    ],
)
def test_learning_rates_are_spelled_with_as_few_digits_as_tell_them(rate: float, text: str) -> None:
    assert format_rate(rate) == text
    assert float(text) == rate
