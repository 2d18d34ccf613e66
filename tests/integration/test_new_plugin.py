"""``forge plugins new`` writes packages that install, pass their tests and work from a recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from environments import Environment, fresh_environment

from llmforge.cli.scaffold import TEMPLATED, write_package
from llmforge.component import KINDS

_LENGTH = """
[run]
id = "all"

[eval]
every = 4

[train]
max_steps = 12
batch_size = 4
log_every = 1
"""

_TEXT = "\n\n".join(
    f"Paragraph {number} is about the number {number}, its double {2 * number} and its half."
    for number in range(200)
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a new package of every kind, each with a command."""
    directory = tmp_path_factory.mktemp("packages")
    for kind in TEMPLATED:
        write_package(f"new-{kind}", kind=kind, parent=directory, command=True)
    return directory


@pytest.fixture(scope="module")
def environment(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with all of them installed by pip, as their README says."""
    made = fresh_environment(tmp_path_factory.mktemp("environment") / "venv")
    editable = [part for package in _all(packages) for part in ("-e", package)]
    made.install(*editable, cwd=packages)
    return made


def _all(packages: Path) -> list[Path]:
    return sorted(packages.glob("llmforge-*"))


def test_every_package_passes_its_own_tests(environment: Environment, packages: Path) -> None:
    options = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib")
    done = environment.run("-m", "pytest", *options, *_all(packages), cwd=packages)
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_every_component_and_command_is_listed(environment: Environment, packages: Path) -> None:
    listed = json.loads(environment.forge("plugins", "list", "--json", cwd=packages).stdout)
    found = {(entry["kind"], entry["name"]) for entry in listed}
    for kind in TEMPLATED:
        assert {(kind, f"new-{kind}"), ("command", f"new-{kind}")} <= found


def test_every_recipe_is_valid(environment: Environment, packages: Path) -> None:
    recipes = sorted(packages.glob("*/recipe.toml"))
    done = environment.forge("recipe", "check", *recipes, cwd=packages)
    assert done.stdout.count("recipe.toml: ok") == len(KINDS)


def test_all_of_them_work_together_in_one_run_that_stops_and_goes_on(
    environment: Environment, packages: Path
) -> None:
    base = 'extends = "wikitext_tiny"\n'
    recipes = [
        path.read_text(encoding="utf-8")
        for path in sorted(packages.glob("*/recipe.toml"))
        # these have tests of their own
        if path.parent.name not in ("llmforge-new-sweep", "llmforge-new-metric")
    ]
    choices = [recipe.partition(base)[2] for recipe in recipes]
    (packages / "all.toml").write_text("".join([base, *choices, _LENGTH]), encoding="utf-8")
    (packages / "README.md").write_text(_TEXT, encoding="utf-8")
    environment.forge("train", "all.toml", "--set", "train.stop_at=5", cwd=packages)
    environment.forge("train", "all.toml", cwd=packages)
    run = packages / "runs" / "all"
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["state"] == "completed"
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["new-callback/lowest_loss"] <= rows[0]["train/loss"]
    lines = (run / "trackers" / "new-tracker" / "metrics.txt").read_text().splitlines()
    steps = [line.split(":")[0] for line in lines]
    assert "step 5" in steps
    assert steps[-1] == "step 12"
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert "threads 1: as the recipe says" in record["resolved"]["reasons"]


@pytest.mark.slow
def test_a_run_comes_back_from_the_new_storage(environment: Environment, packages: Path) -> None:
    place = packages / "elsewhere"
    place.mkdir()
    recipe = packages / "llmforge-new-storage" / "recipe.toml"
    length = ("--profile", "test", "--set", "run.id=kept", "--set", "train.max_steps=4")
    stop = ("--set", "train.stop_at=2")
    environment.forge("train", recipe, *length, *stop, "--set", "run.root=first", cwd=place)
    assert list((place / "stored-runs").rglob("COMMIT*"))
    shutil.rmtree(place / "first")
    done = environment.forge("train", recipe, *length, "--set", "run.root=second", cwd=place)
    assert "from step 2" in done.stdout + done.stderr
    assert (place / "second" / "kept" / "checkpoints" / "step-00000004").is_dir()


@pytest.mark.slow
def test_the_new_sweeper_searches(environment: Environment, packages: Path) -> None:
    place = packages / "swept"
    place.mkdir()
    recipe = packages / "llmforge-new-sweep" / "recipe.toml"
    limits = ("--set", "train.max_steps=2", "--set", "eval.every=2", "--max-trials", "2")
    environment.forge("sweep", recipe, "--profile", "test", *limits, cwd=place)
    trials = [json.loads(path.read_text()) for path in place.rglob("run.json")]
    assert [trial["state"] for trial in trials] == ["completed", "completed"]
    assert trials[0]["identity"]["hash"] != trials[1]["identity"]["hash"]


@pytest.mark.slow
def test_the_new_metric_is_measured(environment: Environment, packages: Path) -> None:
    place = packages / "measured"
    place.mkdir()
    recipe = packages / "llmforge-new-metric" / "recipe.toml"
    length = ("--set", "run.id=one", "--set", "train.max_steps=2", "--set", "eval.every=2")
    environment.forge("train", recipe, "--profile", "test", *length, cwd=place)
    rows = (place / "runs" / "one" / "metrics.jsonl").read_text().splitlines()
    assert 0 <= json.loads(rows[-1])["val/new-metric"] <= 1


def test_a_command_runs(environment: Environment, packages: Path) -> None:
    done = environment.forge("new-tracker", "Ada", cwd=packages)
    assert done.stdout == "Hello, Ada, from llmforge-new-tracker.\n"
