"""Layers: extends, profiles, environment, overrides, and where each value came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_parts import parts, parts_folder, write

from llmforge.component import KINDS
from llmforge.errors import RecipeError, UsageError
from llmforge.recipe import Override, load_generation, load_recipe, parse_set, to_toml
from llmforge.recipe.load import _ORDER, profiles_of
from llmforge.recipe.schema import CORE_TABLES

__all__ = ["parts", "parts_folder"]  # fixtures


def test_later_layers_win_and_tell_where_they_come_from(parts: Path) -> None:
    write(parts / "base.toml", more="[eval]\nevery = 10\n[profile.test]\ntrain.log_every = 2\n")
    child = parts / "child.toml"
    write(
        child,
        'extends = "base.toml"\n[train]\nbatch_size = 8\n[profile.test]\ntrain.batch_size = 2\n',
    )
    recipe = load_recipe(child, profile="test", overrides=["model.toy.width=99"])
    assert (recipe.train.batch_size, recipe.train.log_every) == (2, 2)
    assert recipe.eval.every == 10
    origins = {key: str(origin) for key, origin in recipe.origins.items()}
    assert origins["train.batch_size"] == "profile test (child.toml:5)"
    assert origins["train.log_every"] == "profile test (base.toml:30)"
    assert origins["eval.every"] == "base.toml:28"
    assert origins["train.max_steps"] == "base.toml:15"
    assert origins["model.toy.width"] == "--set"
    assert origins["model.toy.context"] == "default"


def test_every_value_has_an_origin(parts: Path) -> None:
    recipe = load_recipe(write(parts / "r.toml"))
    assert "generation.echo.times" in recipe.origins
    assert all(
        f"{name}.{key}" in recipe.origins
        for name, table in recipe.tables.items()
        for key, value in table.items()
        if not isinstance(value, dict)
    )


def test_lists_are_replaced_and_tables_merged(parts: Path) -> None:
    write(parts / "base.toml", more='[tracker]\nnames = ["paper"]\n[tracker.paper]\nfolder = "a"\n')
    child = write(parts / "c.toml", 'extends = "base.toml"\n[tracker]\nnames = ["stone"]\n')
    recipe = load_recipe(child)
    assert [item.name for item in recipe.selections["tracker"]] == ["stone"]
    both = load_recipe(child, overrides=['tracker.names=["stone", "paper"]'])
    assert both.tables["tracker"]["paper"]["folder"] == "a"


def test_switching_a_component_keeps_the_tables_of_the_others(parts: Path) -> None:
    source = write(parts / "r.toml", more="[optimizer.other]\ndamping = 0.25\n")
    recipe = load_recipe(source, overrides=["optimizer.name=other"])
    assert recipe.tables["optimizer"] == {"name": "other", "other": {"lr": 0.1, "damping": 0.25}}


def test_a_later_layer_replaces_the_alternative_of_an_earlier_one(parts: Path) -> None:
    source = write(parts / "r.toml", more="[schedule.ramp]\nwarmup = 0.1\n")
    recipe = load_recipe(source, overrides=["train.epochs=2", "schedule.ramp.warmup_steps=5"])
    assert (recipe.train.max_steps, recipe.train.epochs) == (None, 2.0)
    assert recipe.tables["schedule"]["ramp"] == {"warmup_steps": 5}


def test_alternatives_in_the_same_layer_are_refused(parts: Path) -> None:
    source = write(parts / "r.toml")
    with pytest.raises(RecipeError, match="exactly one of max_steps and epochs"):
        load_recipe(source, overrides=["train.epochs=2", "train.max_steps=5"])


def test_python_overrides_take_dotted_keys_tables_and_none(parts: Path) -> None:
    recipe = load_recipe(
        write(parts / "r.toml"),
        overrides={"train.log_every": 3, "model": {"toy": {"width": None}}, "run.root": parts},
    )
    assert recipe.train.log_every == 3
    assert recipe.tables["model"]["toy"]["width"] == 8
    assert recipe.run.root == str(parts)
    assert str(recipe.origins["train.log_every"]) == "overrides"


def test_an_alias_is_named_as_the_origin(parts: Path) -> None:
    override = Override(("train", "max_steps"), 20, "--max-steps")
    recipe = load_recipe(write(parts / "r.toml"), overrides=[override])
    assert recipe.train.max_steps == 20
    assert str(recipe.origins["train.max_steps"]) == "--max-steps"


def test_the_environment_sets_the_root_unless_set_does(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(parts / "r.toml", more="")
    monkeypatch.setenv("FORGE_RUN_ROOT", "/elsewhere")
    recipe = load_recipe(source)
    assert recipe.run.root == "/elsewhere"
    assert str(recipe.origins["run.root"]) == "FORGE_RUN_ROOT"
    assert load_recipe(source, overrides=["run.root=here"]).run.root == "here"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=20", 20),
        ("a.b=1e-3", 1e-3),
        ("a.b=true", True),
        ('a.b=["x", "y"]', ["x", "y"]),
        ("a.b=plain text", "plain text"),
        ("a.b=s3://bucket/x", "s3://bucket/x"),
        ("a.b=", ""),
        ("a.b=k=v", "k=v"),
        ("a.b=1\nc=2", "1\nc=2"),
        (" a . b =5", 5),
    ],
)
def test_set_takes_toml_or_else_a_plain_string(text: str, value: object) -> None:
    assert parse_set(text) == Override(("a", "b"), value, "--set")


@pytest.mark.parametrize("text", ["train.max_steps", "=3", "a b=3", "a..b=3"])
def test_set_without_a_key_says_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError, match=r"train\.max_steps=20"):
        parse_set(text)


def test_a_circle_of_extends_names_its_files(parts: Path) -> None:
    write(parts / "a.toml", 'extends = "b.toml"\n')
    write(parts / "b.toml", '# base\nextends = "a.toml"\n')
    with pytest.raises(RecipeError, match=r"a.toml extends b.toml extends a.toml"):
        load_recipe(parts / "a.toml")


def test_extends_is_looked_for_beside_the_file_and_suggests(parts: Path) -> None:
    (parts / "deep").mkdir()
    write(parts / "deep" / "base.toml")
    write(parts / "deep" / "child.toml", 'extends = "base.toml"\n')
    assert load_recipe("deep/child.toml").train.max_steps == 100
    write(parts / "deep" / "child.toml", '\nextends = "bsae.toml"\n')
    with pytest.raises(RecipeError, match=r"deep/child.toml:2: extends: .*mean 'base.toml'"):
        load_recipe("deep/child.toml")


def test_an_unknown_profile_lists_the_known_ones(parts: Path) -> None:
    write(parts / "base.toml", more="[profile.test]\n[profile.production]\n")
    child = write(parts / "c.toml", 'extends = "base.toml"\n[profile.own]\n')
    assert profiles_of(child) == ("test", "production", "own")
    with pytest.raises(RecipeError, match=r"mean 'test'.*test, production, own"):
        load_recipe(child, profile="tset")


def test_syntax_errors_show_file_line_and_text(parts: Path) -> None:
    write(parts / "r.toml", "[run]\nseed = 1\n[train\nmax_steps = 3\n")
    with pytest.raises(RecipeError, match=r"r.toml:3: not valid TOML: .*\[train"):
        load_recipe("r.toml")


@pytest.mark.parametrize("text", ["profile = 3\n", "[profile]\ntest = 3\n"])
def test_a_profile_must_be_a_table(parts: Path, text: str) -> None:
    write(parts / "r.toml", text)
    with pytest.raises(RecipeError, match="must be a table of values to overlay"):
        load_recipe("r.toml")


@pytest.mark.parametrize("key", ["extends", "profile.test.train.max_steps"])
def test_overrides_cannot_change_how_the_file_is_read(parts: Path, key: str) -> None:
    with pytest.raises(RecipeError, match="only be written at the top of a recipe file"):
        load_recipe(write(parts / "r.toml"), overrides=[f"{key}=x"])


def test_files_that_cannot_be_read_are_problems_not_tracebacks(parts: Path) -> None:
    (parts / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe("binary.toml")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(parts)
    with pytest.raises(RecipeError, match="mean 'wikitext_tiny'"):
        load_recipe("wikitext_tny")
    with pytest.raises(RecipeError, match="give 'wikitext_tiny'"):
        load_recipe("recipes/wikitext_tiny.toml")


def test_a_byte_order_mark_is_accepted(parts: Path) -> None:
    source = write(parts / "r.toml")
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    assert load_recipe(source).run.seed == 7


def test_toml_arrays_fill_tuples_and_strings_paths(parts: Path) -> None:
    recipe = load_recipe(write(parts / "r.toml"), overrides=["model.toy.sizes=[5, 6]"])
    assert recipe.selected("model").options.sizes == (5, 6)  # type: ignore[attr-defined]
    assert recipe.selected("data").options.path == Path("text.txt")  # type: ignore[attr-defined]


def test_the_resolved_recipe_reads_back_as_itself(parts: Path) -> None:
    more = """
        [tracker]
        names = ["stone"]
        [storage]
        url = "pigeon://bucket/runs"
        [storage.pigeon]
        birds = 3
        [optimizer.other]
        """
    first = load_recipe(write(parts / "r.toml", more=more), overrides=['run.notes=a"b\\c\nd # é'])
    stored = write(parts / "stored.toml", to_toml(first.tables))
    second = load_recipe(stored)
    assert second.tables == first.tables
    assert "other" not in second.tables["optimizer"]
    assert second.tables["storage"]["pigeon"] == {"birds": 3}


def test_a_generation_recipe_needs_no_model_and_no_data(parts: Path) -> None:
    source = write(
        parts / "g.toml",
        """
        [generation]
        name = "echo"
        checkpoint = "my-run@best"
        prompts = ["a"]
        [generation.echo]
        times = 5
        """,
    )
    recipe = load_generation(source, overrides=["run.root=elsewhere"])
    assert recipe.generation.checkpoint == "my-run@best"
    assert recipe.generator.options.times == 5  # type: ignore[attr-defined]
    assert recipe.run.root == "elsewhere"
    assert str(recipe.origins["generation.echo.times"]) == "g.toml:7"


def test_a_training_recipe_serves_for_generation_too(parts: Path) -> None:
    recipe = load_generation(write(parts / "r.toml"))
    assert recipe.generator.name == "echo"
    assert set(recipe.tables) == {"run", "generation"}


def test_a_generation_recipe_is_checked_as_strictly(parts: Path) -> None:
    source = write(parts / "g.toml", '[generation]\nname = "echo"\npromts = ["a"]\n')
    with pytest.raises(RecipeError, match=r"g.toml:3: generation.promts: .*mean 'prompts'"):
        load_generation(source)
    with pytest.raises(RecipeError, match="says nothing about generation"):
        load_generation(write(parts / "e.toml", "[run]\nseed = 1\n"))


def test_a_resolved_recipe_has_a_place_for_every_table() -> None:
    assert set(_ORDER) == {*CORE_TABLES, *KINDS}
