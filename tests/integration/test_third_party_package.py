"""A third-party package: built, installed by pip into a fresh environment, used from a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from environments import Environment, fresh_environment

EXAMPLE = Path(__file__).parents[2] / "examples" / "llmforge-hello"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory away from the repository."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def environment(place: Path) -> Environment:
    """A fresh environment into which pip has installed the example's wheel."""
    made = fresh_environment(place / "venv")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", place)
    made.run("-m", "pip", "wheel", *options, EXAMPLE, cwd=place)
    (wheel,) = place.glob("llmforge_hello-*.whl")
    made.install(wheel, cwd=place)
    return made


@pytest.fixture(scope="module")
def run_directory(environment: Environment, place: Path) -> Path:
    """The run of a short training with the package's model and tracker."""
    (place / "hello.toml").write_text((EXAMPLE / "hello.toml").read_text(encoding="utf-8"))
    sizes = ("--set", "model.mingru.width=32", "--set", "model.mingru.context=32")
    environment.forge("train", "hello.toml", "--profile", "test", *sizes, cwd=place)
    (record,) = (place / "runs").glob("*/run.json")
    return record.parent


def test_its_parts_are_listed_with_their_package(environment: Environment, place: Path) -> None:
    listed = json.loads(environment.forge("plugins", "list", "--json", cwd=place).stdout)
    own = {
        (entry["kind"], entry["name"], entry["target"])
        for entry in listed
        if (entry["distribution"], entry["version"]) == ("llmforge-hello", "0.1.0")
    }
    assert own == {
        ("tracker", "hello", "llmforge_hello.tracker:Hello"),
        ("model", "mingru", "llmforge_hello.model:MinGru"),
        ("command", "hello", "llmforge_hello.command:hello"),
    }


def test_listing_imports_none_of_it(environment: Environment, place: Path) -> None:
    code = (
        "import sys; from llmforge.plugins import listed; assert listed('tracker');"
        "sys.exit(any(name.startswith('llmforge_hello') for name in sys.modules))"
    )
    environment.run("-c", code, cwd=place)


def test_its_options_are_explained(environment: Environment, place: Path) -> None:
    shown = environment.forge("plugins", "show", "model", "mingru", cwd=place).stdout
    assert "llmforge-hello 0.1.0" in shown
    assert "width  int  = 128" in shown
    assert "forge_build_model" in shown


def test_its_command_is_part_of_forge(environment: Environment, place: Path) -> None:
    assert "hello" in environment.forge("--help", cwd=place).stdout
    assert environment.forge("hello", cwd=place).stdout.startswith("Hello from llmforge-hello")


def test_a_wrong_option_of_it_is_reported_like_a_built_in_ones(
    environment: Environment, place: Path
) -> None:
    recipe = place / "wrong.toml"
    recipe.write_text('extends = "wikitext_tiny"\n[tracker.hello]\ndigit = 3\n', encoding="utf-8")
    done = environment.forge("recipe", "check", recipe, cwd=place, expect=2)
    assert "tracker.hello.digit" in done.stdout + done.stderr
    assert "did you mean 'digits'?" in done.stdout + done.stderr


def test_it_is_out_of_reach_when_the_environment_variable_leaves_it_out(
    environment: Environment, place: Path
) -> None:
    code = (
        "import os; os.environ['FORGE_PLUGINS'] = 'another-package'\n"
        "from llmforge.plugins import entries; assert 'hello' not in entries('tracker')"
    )
    environment.run("-c", code, cwd=place)


def test_a_recipe_trains_its_model(run_directory: Path) -> None:
    record = json.loads((run_directory / "run.json").read_text(encoding="utf-8"))
    assert record["state"] == "completed"
    rows = [
        json.loads(line)
        for line in (run_directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0]


def test_its_tracker_is_told_the_run(
    environment: Environment, place: Path, run_directory: Path
) -> None:
    log = environment.forge("hello", run_directory, cwd=place).stdout.splitlines()
    assert log[0] == f"hello, {run_directory.name}"
    assert any("train/loss" in line for line in log)
    assert any("best so far" in line for line in log)
    assert log[-1] == "goodbye: completed at step 20"


def test_its_model_generates_from_the_checkpoint(
    environment: Environment, place: Path, run_directory: Path
) -> None:
    done = environment.forge("generate", run_directory, "--prompt", "The", "--json", cwd=place)
    assert '"The"' in done.stdout
