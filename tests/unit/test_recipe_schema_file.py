"""The schema beside the shipped recipes is the one that `forge recipe schema` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmforge import installed
from llmforge.recipe.json_schema import recipe_schema
from llmforge.recipe.shipped import copy_shipped, shipped_directory, shipped_recipes

FILE = Path(__file__).parents[2] / "recipes" / "recipe.schema.json"


def test_the_file_is_what_the_command_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_PLUGINS", "")  # llmforge's own components only
    installed.refresh()
    written = FILE.read_text(encoding="utf-8")
    assert written == json.dumps(recipe_schema(), indent=2) + "\n", (
        "run: FORGE_PLUGINS= forge recipe schema -o recipes/recipe.schema.json"
    )


def test_every_shipped_recipe_names_it_and_still_describes_itself() -> None:
    for recipe in shipped_recipes():
        first = recipe.path.read_text(encoding="utf-8").partition("\n")[0]
        assert first == f"#:schema {FILE.name}"
        assert recipe.description
    assert (shipped_directory() / FILE.name).is_file()


def test_a_copy_names_no_schema_that_is_not_beside_it(tmp_path: Path) -> None:
    copied = copy_shipped("wikitext_tiny", destination=tmp_path / "mine.toml")
    assert copied.read_text(encoding="utf-8").startswith("# ")
