"""``forge recipe``: what the commands print, JSON Schema, and getting the shipped recipes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from recipe_parts import parts, parts_folder, write
from typer.testing import CliRunner

from llmforge.cli.recipe import app
from llmforge.errors import ForgeError, RecipeError, UsageError
from llmforge.recipe.json_schema import recipe_schema
from llmforge.recipe.shipped import shipped_names
from llmforge.recipe.toml import to_annotated_toml

__all__ = ["parts", "parts_folder"]  # fixtures


def run(*arguments: str | Path) -> str:
    """Run ``forge recipe`` and return what it prints, raising what it raises."""
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    if isinstance(result.exception, ForgeError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_check_goes_through_every_profile(parts: Path) -> None:
    source = write(parts / "r.toml", more="[profile.good]\n[profile.bad]\ntrain.batchsize = 1\n")
    with pytest.raises(RecipeError, match=r"profile bad \(r.toml:29\): train.batchsize"):
        run("check", source)
    assert "(profile good): ok, run id single_bs4_cw32" in run("check", source, "-p", "good")


def test_check_says_a_mistake_once_however_many_profiles_share_it(parts: Path) -> None:
    more = "[profile.a]\ntrain.batch_size = 8\n[profile.b]\ntrain.batch_size = 16\n"
    source = write(parts / "r.toml", more=more)
    with pytest.raises(RecipeError) as caught:
        run("check", source, "--set", "train.micro_batch_size=3")
    assert [item.key for item in caught.value.problems] == ["train.micro_batch_size"]


def test_check_collects_the_problems_of_all_recipes(parts: Path) -> None:
    first = write(parts / "a.toml", more="[trian]\n")
    second = write(parts / "b.toml", "not toml\n")
    with pytest.raises(RecipeError) as caught:
        run("check", first, second)
    assert [item.where for item in caught.value.problems] == ["a.toml:27", "b.toml:1"]


def test_show_is_toml_with_the_origin_of_every_value(parts: Path) -> None:
    source = write(parts / "r.toml", more="[profile.p]\ntrain.log_every = 3\n")
    text = run("show", source, "--profile", "p", "--set", "model.toy.sizes=[1, 5]")
    shown = tomllib.loads(text)
    assert shown["model"]["toy"]["sizes"] == [1, 5]
    rows = {row.partition(" =")[0]: row.partition("  # ")[2] for row in text.splitlines()}
    assert rows["log_every"] == "profile p (r.toml:28)"
    assert rows["max_steps"] == "r.toml:15"
    assert rows["sizes"] == "--set"
    assert rows["context"] == "default"
    assert max(map(len, text.splitlines())) <= 100


def test_show_names_the_shortcut_a_value_came_from(parts: Path) -> None:
    source = write(parts / "r.toml")
    shortcuts = ["--max-steps", "9", "-n", "4", "--device", "cpu", "--project", "p", "--name", "q"]
    rows = run("show", source, *shortcuts).splitlines()
    found = {row.partition(" =")[0]: row.split() for row in rows}
    assert found["max_steps"][2:] == ["9", "#", "--max-steps"]
    assert found["max_documents"][2:] == ["4", "#", "--samples"]
    assert found["device"][2:] == ['"cpu"', "#", "--device"]
    assert found["project"][2:] == ['"p"', "#", "--project"]
    assert found["name"][-1] != "--name"  # that of the last table, a component's
    assert any(row.startswith('name = "q" ') and row.endswith("# --name") for row in rows)
    assert 'preset = "small"' in run("show", "wikitext_tiny", "-m", "small")
    with pytest.raises(RecipeError, match=r"--model: model\.toy\.preset: unknown key"):
        run("show", source, "--model", "small")


def test_show_without_defaults_has_only_what_was_set(parts: Path) -> None:
    text = run("show", write(parts / "r.toml"), "--no-defaults")
    assert "default" not in text
    assert tomllib.loads(text)["train"] == {"max_steps": 100, "batch_size": 4}
    assert "eval" not in tomllib.loads(text)


def test_show_as_json_has_the_identity(parts: Path) -> None:
    shown = json.loads(run("show", write(parts / "r.toml"), "--json"))
    assert shown["run_id"].endswith(shown["identity"][:6])
    assert shown["recipe"]["train"]["max_steps"] == 100
    assert shown["origins"]["train.max_steps"] == "r.toml:15"


def test_show_takes_a_generation_recipe(parts: Path) -> None:
    source = write(parts / "g.toml", '[generation]\nname = "echo"\nprompts = ["a"]\n')
    assert tomllib.loads(run("show", source))["generation"]["prompts"] == ["a"]
    assert "generates with echo" in run("check", source)


def test_comments_stand_above_values_that_are_too_long() -> None:
    text = to_annotated_toml({"a": {"long": "x" * 95}}, origins={"a.long": "r.toml:3"})
    assert text.splitlines()[1] == "# r.toml:3"
    assert tomllib.loads(text) == {"a": {"long": "x" * 95}}


def resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference of a JSON Schema."""
    return schema["$defs"][node["$ref"].removeprefix("#/$defs/")] if "$ref" in node else node


def test_the_schema_covers_tables_kinds_and_installed_components(parts: Path) -> None:
    schema = recipe_schema()
    train = resolve(schema, schema["properties"]["train"])
    assert train["properties"]["batch_size"]["description"].startswith("Sequences per optimizer")
    assert train["additionalProperties"] is False
    model = schema["properties"]["model"]
    assert "toy" in model["properties"]["name"]["enum"]
    toy = resolve(schema, model["properties"]["toy"])
    assert toy["properties"]["shape"]["enum"] == ["flat", "deep"]
    tracker = schema["properties"]["tracker"]["properties"]
    assert set(tracker["names"]["items"]["enum"]) >= {"paper", "stone"}
    assert {"on_error", "paper"} <= set(tracker)
    assert "url" in schema["properties"]["storage"]["properties"]
    assert '"null"' not in json.dumps(schema)


def test_a_profile_overlays_the_same_tables_and_requires_nothing(parts: Path) -> None:
    schema = recipe_schema()
    overlay = schema["$defs"]["overlay"]
    tables = set(schema["properties"]) - {"extends", "profile"}
    assert set(overlay["properties"]) == tables
    assert schema["then"]["required"] == ["model", "data", "train"]
    assert {"required": ["train"]} in schema["if"]["anyOf"]  # not so for generate.toml
    nothing_inside = {key: value for key, value in schema.items() if key not in ("if", "then")}
    assert '"required"' not in json.dumps(nothing_inside)


def test_a_component_that_cannot_load_leaves_the_rest_of_the_schema(parts: Path) -> None:
    optimizer = recipe_schema()["properties"]["optimizer"]["properties"]
    assert "cannot be loaded" in optimizer["missing"]["description"]
    assert "properties" not in optimizer["missing"]


def test_the_schema_is_written_to_a_file(parts: Path) -> None:
    run("schema", "--output", parts / "schema.json")
    assert json.loads((parts / "schema.json").read_text())["title"] == "llmforge recipe"
    with pytest.raises(UsageError, match="cannot be written"):
        run("schema", "--output", parts / "nowhere" / "schema.json")


def test_list_describes_the_shipped_recipes() -> None:
    rows = {row["name"]: row for row in json.loads(run("list", "--json"))}
    assert set(rows) == set(shipped_names())
    assert {"wikitext_tiny", "wikitext2", "custom_large", "generate"} <= set(rows)
    assert rows["custom_large"]["profiles"] == ["test", "development", "production"]
    assert all(row["description"] for row in rows.values())
    text = run("list")
    assert "classic" in text
    assert max(map(len, text.splitlines())) <= 100


def test_copy_names_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/r\.toml cannot be written"):
        run("copy", "wikitext_tiny", tmp_path / "file" / "r.toml")


def test_copy_keeps_what_is_there_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("copy", "wikitext_tiny").strip() == "wikitext_tiny.toml"
    Path("wikitext_tiny.toml").write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        run("copy", "wikitext_tiny")
    assert Path("wikitext_tiny.toml").read_text() == "mine"
    run("copy", "wikitext_tiny", "--force")
    assert tomllib.loads(Path("wikitext_tiny.toml").read_text())["model"]
    run("copy", "generate", tmp_path / "new" / "g.toml")
    assert (tmp_path / "new" / "g.toml").is_file()
    with pytest.raises(UsageError, match="mean 'wikitext2'"):
        run("copy", "wikitxt2")
