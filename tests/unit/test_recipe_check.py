"""Strictness: every mistake is found, placed, and answered with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_parts import RECIPE, parts, parts_folder, write

from llmforge import plugins
from llmforge.errors import PluginError, Problem, RecipeError
from llmforge.recipe import load_recipe

__all__ = ["parts", "parts_folder"]  # fixtures

LAST = len(RECIPE.splitlines())


def problems(folder: Path, more: str = "", *overrides: str) -> list[Problem]:
    """Return what is wrong with the common recipe plus ``more``."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder / "r.toml", more=more), overrides=list(overrides))
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def problem(folder: Path, more: str = "", *overrides: str) -> Problem:
    """Return the only thing that is wrong."""
    (found,) = problems(folder, more, *overrides)
    return found


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(parts: Path) -> None:
    more = """\
        [optimiser]
        lr = 1
        [eval]
        evry = 5
        [early_stopping]
        patience = "two"
        [tracker]
        names = ["papr"]
        [checkpoint]
        keep_last = 0
        """
    found = problems(parts, more)
    assert [(item.key, item.where) for item in found] == [
        ("optimiser", f"r.toml:{LAST + 1}"),
        ("eval.evry", f"r.toml:{LAST + 4}"),
        ("early_stopping.patience", f"r.toml:{LAST + 6}"),
        ("tracker.names", f"r.toml:{LAST + 8}"),
        ("checkpoint.keep_last", f"r.toml:{LAST + 10}"),
    ]


@pytest.mark.parametrize(
    ("assignment", "remedy"),
    [
        ("train.warmup_steps=5", "`warmup_steps` belongs in [schedule.ramp]"),
        ("train.lr=1e-3", "`lr` belongs in [optimizer.plain]"),
        ("optimizer.lr=1e-3", "`lr` belongs in [optimizer.plain]"),
        ("lr=1e-3", "`lr` belongs in [optimizer.plain]"),
        ("model.toy.batch_size=3", "`batch_size` belongs in [train] or [eval]"),
        ("generation.echo.every=3", "`every` belongs in [generation] or [eval] or [checkpoint]"),
        ("train.patience=3", "`patience` belongs in [early_stopping]"),
        ("model.prompts=['a']", "`prompts` belongs in [generation]"),
        ("train.batchsize=3", "did you mean 'batch_size'?"),
        ("train.momentun=3", "did you mean 'momentum'? `momentum` belongs in [optimizer.plain]"),
        ("early_stoping.patience=3", "did you mean 'early_stopping'?"),
        ("optimizer.plian.lr=3", "did you mean 'plain'?"),
        ("optimizer.name=plian", "did you mean 'plain'?"),
        ("optimizer.ramp.warmup=0.1", "'ramp' is of kind schedule: [schedule.ramp]"),
        ("optimizer.name=ramp", "'ramp' is of kind schedule: [schedule.ramp]"),
        ("paper.folder=x", "'paper' is of kind tracker: [tracker.paper]"),
        ("tracker.paper=x", "write [tracker.paper]"),
        ("train=3", "write [train]"),
        ("tracker.name=paper", 'a recipe may have several: write names = ["paper"]'),
        ("optimizer.names=['plain']", 'a recipe has one: write name = "plain"'),
        ("tracker.names=paper", 'for example names = ["paper"]'),
        ("tracker.names=['paper', 'paper']", "list it once"),
        ("storage.name=pigeon", "set url"),
    ],
)
def test_a_misplaced_or_misspelt_key_is_answered_with_the_right_one(
    parts: Path, assignment: str, remedy: str
) -> None:
    found = problems(parts, "", assignment)
    assert remedy in [item.remedy for item in found]
    assert all(item.where == "--set" for item in found if item.remedy == remedy)


def test_problems_of_a_profile_come_in_the_order_of_its_lines(parts: Path) -> None:
    blank = "\n" * (98 - LAST)
    more = f"{blank}[profile.p]\ntrain.b = 1\nrun.a = 1\n"
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(parts / "r.toml", more=more), profile="p")
    assert [item.key for item in caught.value.problems] == ["train.b", "run.a"]
    assert caught.value.problems[1].where == "profile p (r.toml:101)"


@pytest.mark.parametrize(
    ("written", "remedy"), [("2024", "on a command line '\"2024\"'"), ("nan", '"nan"'), ("[1]", "")]
)
def test_a_text_that_toml_takes_for_a_number_is_answered_with_its_quotes(
    written: str, remedy: str, parts: Path
) -> None:
    found = problem(parts, "", f"run.id={written}")
    assert found.key == "run.id"
    assert (remedy in found.remedy) if remedy else not found.remedy


def test_options_of_unselected_components_are_checked(parts: Path) -> None:
    found = problem(parts, "[optimizer.other]\ndampin = 3\n")
    assert (found.key, found.remedy) == ("optimizer.other.dampin", "did you mean 'damping'?")


def test_only_components_the_recipe_names_are_suggested(parts: Path) -> None:
    assert "other" not in problem(parts, "", "train.damping=1").remedy
    found = problem(parts, "[optimizer.other]\n", "train.damping=1")
    assert found.remedy == "`damping` belongs in [optimizer.other]"


def test_a_value_of_several_types_is_one_problem(parts: Path) -> None:
    found = problem(parts, "", "model.toy.mode=fast")
    assert (found.key, found.message) == (
        "model.toy.mode",
        "should be 'auto' or a valid boolean or a valid integer, got 'fast'",
    )


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.batch_size=2.5", "should be a valid integer"),
        ("train.batch_size=-1", "should be greater than 0, got -1"),
        ("train.batch_size=true", "got true"),
        ("run.log_level=loud", "'debug', 'info', 'warning' or 'error', got 'loud'"),
        ("optimizer.plain.lr=nan", "should be a finite number"),
        ("eval.every=2 eons", "must be a number of steps or text like '1 epoch'"),
        ("train.device=tpu", "must be auto, cpu, cuda, cuda:N or mps, got 'tpu'"),
        ("run.id=a/b", "an id starts with a letter or digit"),
        ("run.log_file=../log.txt", "must be a name like log.txt or logs/train.log"),
        ("run.log_file=/tmp/log.txt", "must be a name like log.txt"),
        ("run.log_file=metrics.jsonl", "must be a name like log.txt"),
        ("data.lines={}", ""),
    ],
)
def test_a_wrong_value_says_what_is_allowed(parts: Path, assignment: str, message: str) -> None:
    if message:
        assert message in problem(parts, "", assignment).message
    else:
        load_recipe(write(parts / "r.toml"), overrides=[assignment])


def test_the_line_of_a_list_item_is_found(parts: Path) -> None:
    found = problem(parts, "[generation.x]\n[profile.a]\n", "generation.x={}")
    assert found.key == "generation.x"
    more = "[model.toy.y]\n"
    text = RECIPE.replace("width = 16", "layers = [\n  1,\n  'two',\n]")
    with pytest.raises(RecipeError, match=r"r.toml:9: model.toy.layers.1: should be a valid int"):
        load_recipe(write(parts / "r.toml", text))
    assert problem(parts, more).remedy.startswith("known keys: context, width")


@pytest.mark.parametrize(
    ("gone", "key"),
    [('name = "toy"', "model.name"), ('name = "lines"', "data.name")],
)
def test_model_and_data_must_be_named(parts: Path, gone: str, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(parts / "r.toml", RECIPE.replace(gone, "")))
    (found,) = caught.value.problems
    assert found.key == key
    assert "available: " in found.remedy


def test_a_required_option_is_asked_for(parts: Path) -> None:
    with pytest.raises(RecipeError, match=r"r.toml:12: data.lines.path: a value is required"):
        load_recipe(write(parts / "r.toml", RECIPE.replace('path = "text.txt"', "")))


def test_a_recipe_without_a_length_is_refused_even_without_a_train_table(parts: Path) -> None:
    text = RECIPE.replace("[train]\nmax_steps = 100\nbatch_size = 4\n", "")
    with pytest.raises(RecipeError, match=r"r.toml: train: give exactly one of max_steps"):
        load_recipe(write(parts / "r.toml", text))


def test_a_component_that_cannot_be_imported_is_a_problem(parts: Path) -> None:
    found = problem(parts, "", "optimizer.name=missing")
    assert found.key == "optimizer.name"
    assert "cannot be loaded" in found.message


def test_two_packages_with_one_name_are_one_problem(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = plugins.entries

    def clash(kind: str) -> dict[str, plugins.Entry]:
        if kind == "tracker":
            raise PluginError("two tracker components are named 'paper'", remedy="uninstall one")
        return entries(kind)

    monkeypatch.setattr(plugins, "entries", clash)
    found = [item for item in problems(parts, "[papers]\n") if item.key == "tracker"]
    assert [item.message for item in found] == ["two tracker components are named 'paper'"]


SECRETS = [
    ("data.lines.token=abcdef", "looks like a secret"),
    ("model.toy.api_key=abcdef", "looks like a secret"),
    ("tracker.paper.WANDB_API_KEY=abcdef", "looks like a secret"),
    ("optimizer.plain.db_password=abcdef", "looks like a secret"),
    ("optimizer.plain.db_password=123456", "looks like a secret"),
    ("data.lines.path=https://host/x?X-Amz-Signature=abcdef", "holds a credential"),
    ("storage.url=s3://me:abcdef@host/bucket", "holds a credential"),
    ("run.notes=see https://me:abcdef@host/x", "holds a credential"),
    ('run.tags=["hf_abcdefabcdefabcdefabcdefabcdefabcdef"]', "holds a credential"),
]


@pytest.mark.parametrize(("assignment", "message"), SECRETS)
def test_secrets_are_refused_and_never_shown(parts: Path, assignment: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(parts / "r.toml"), overrides=[assignment])
    (found,) = caught.value.problems
    assert message in found.message
    assert ".env" in found.remedy
    assert "abcdef" not in str(caught.value)
    assert "123456" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "variables"),
    [
        ("tracker.paper.api_key=abcdef", "as PAPER_KEY)"),
        ("tracker.paper.title=https://me:abcdef@host", "as PAPER_KEY)"),
        ("storage.url=pigeon://me:abcdef@host/x", "as PIGEON_USER and PIGEON_PASSWORD)"),
        ("run.notes=pigeon://me:abcdef@host/x", "as PIGEON_USER and PIGEON_PASSWORD)"),
        ("run.password=abcdef", "or .env)"),
        ("unheard.of.password=abcdef", "or .env)"),
    ],
)
def test_a_refused_secret_is_told_where_it_belongs(
    parts: Path, assignment: str, variables: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(parts / "r.toml"), overrides=[assignment])
    assert str(caught.value.problems[0]).endswith(variables)


def test_a_secret_of_the_environment_is_known_wherever_it_stands(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "abcdef-abcdef-abcdef")
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(parts / "r.toml"), overrides=["run.notes=abcdef-abcdef-abcdef"])
    assert [item.key for item in caught.value.problems] == ["run.notes"]
    assert "abcdef" not in str(caught.value)


@pytest.mark.parametrize(
    "assignment",
    [
        "run.notes=http://host:8080/a@b",
        "run.project=tokens",
        "storage.url=s3://bucket/token",
        "tokenizer.words.vocab_size=50",
    ],
)
def test_ordinary_values_are_no_secrets(parts: Path, assignment: str) -> None:
    load_recipe(write(parts / "r.toml"), overrides=[assignment])


RULES = [
    (["train.micro_batch_size=3"], "train.micro_batch_size", "does not divide batch_size 4"),
    (["train.micro_batch_size=8"], "train.micro_batch_size", "more than batch_size 4"),
    (["schedule.ramp.warmup_steps=100"], "schedule.ramp.warmup_steps", "within the 100 steps"),
    (
        ["schedule.ramp.warmup_steps=50", "schedule.ramp.total_steps=50"],
        "schedule.ramp.warmup_steps",
        "within the 50 steps",
    ),
    (["train.stop_at=101"], "train.stop_at", "after the last step 100"),
    (["train.extend_to=100"], "train.extend_to", "not go past the 100 steps planned"),
    (["early_stopping.patience=2"], "early_stopping.patience", "counts evaluations"),
    (["model.toy.context=0"], "model.toy.context", "holds nothing"),
    (["optimizer.plain.lr=0"], "optimizer.plain.lr", "trains nothing"),
    (["generation.every=10"], "generation.every", "nothing to sample from"),
    (["checkpoint.enabled=false", "checkpoint.every=5"], "checkpoint.every", "enabled is false"),
    (["storage.url=bucket/runs"], "storage.url", "is not a URL"),
    (
        ["storage.delete_local_after_upload=true"],
        "storage.delete_local_after_upload",
        "uploaded nowhere",
    ),
]


@pytest.mark.parametrize(("overrides", "key", "message"), RULES)
def test_tables_that_contradict_each_other_are_refused(
    parts: Path, overrides: list[str], key: str, message: str
) -> None:
    found = problem(parts, "", *overrides)
    assert found.key == key
    assert message in found.message
    assert found.remedy


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.micro_batch_size=2"],
        ["schedule.ramp.warmup_steps=99"],
        ["schedule.ramp.warmup_steps=150", "schedule.ramp.total_steps=200"],
        ["train.stop_at=100"],
        ["train.stop_at=150", "train.extend_to=200"],
        ["early_stopping.patience=2", "eval.every=1 epoch"],
        ["generation.every=10", "generation.prompts=['a']"],
        ["train.epochs=1", "schedule.ramp.warmup_steps=500"],
        ["storage.url=file:///tmp/x"],
        ["storage.url=file:///tmp/x", "storage.delete_local_after_upload=true"],
        ["tracker.names=['paper']", "storage.delete_local_after_upload=true"],
    ],
)
def test_tables_that_agree_pass(parts: Path, overrides: list[str]) -> None:
    load_recipe(write(parts / "r.toml"), overrides=overrides)
