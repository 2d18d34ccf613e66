"""Commands that are given no name, runs that are of a different recipe, and what to type then."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import RECIPE, Workplace, environment
from sweep_place import SweepPlace

SHORT = {"train.precision": "fp32", "generation.prompts": "[]"}
EPOCHS = RECIPE.replace("max_steps = 60", "epochs = 0.1")


def test_a_recipe_that_only_grew_is_told_the_command_that_extends_the_run(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", SHORT, recipe=EPOCHS)
    workplace.train_here()
    assert workplace.rows[-1]["step"] == 5
    longer = ("--set", "train.epochs=0.2")

    output = workplace.train_here(*longer, expect=1)
    assert "run tiny was completed with another recipe:" in output
    assert "train.epochs: 0.1 in the run, 0.2 now" in output
    (command,) = re.findall(r"to continue it to the new length: forge (.*)", output)

    workplace.forge_here(*shlex.split(command))
    assert workplace.rows[-1]["step"] == 10
    assert workplace.record["state"] == "completed"
    assert "already completed" in workplace.forge_here(*shlex.split(command))


def test_steps_are_extended_as_epochs_are_and_to_epochs(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", SHORT | {"train.max_steps": "4"})
    workplace.train_here()
    output = workplace.train_here("--set", "train.max_steps=6", expect=1)
    (command,) = re.findall(r"to continue it to the new length: forge (.*)", output)
    workplace.forge_here(*shlex.split(command))
    assert workplace.rows[-1]["step"] == 6
    workplace.train_here("--extend", "0.2 epochs")
    assert workplace.rows[-1]["step"] == 10
    assert "already completed" in workplace.train_here("--extend", "0.2 epochs")
    output = workplace.train_here("--extend", "some epochs", expect=2)
    assert "--extend: train.extend_to: must be a number of steps or text like '1 epoch'" in output


def test_other_differences_are_named_too_and_are_no_extension(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", SHORT | {"train.max_steps": "2"})
    workplace.train_here()
    changed = ("--set", "train.max_steps=6", "--set", "optimizer.adamw.lr=0.1")
    output = workplace.train_here(*changed, expect=1)
    assert "train.max_steps: 2 in the run, 6 now" in output
    assert "optimizer.adamw.lr: 0.003 in the run, 0.1 now" in output
    assert "to continue" not in output
    assert "to continue" not in workplace.train_here("--set", "train.max_steps=1", expect=1)

    # The keys outlive the run's directory, as the completion does.
    shutil.rmtree(workplace.run.path)
    assert "optimizer.adamw.lr: 0.003 in the run" in workplace.train_here(*changed, expect=1)


@pytest.mark.slow
def test_a_remedy_names_the_directory_of_runs_when_it_is_not_the_usual_one(
    tmp_path: Path,
) -> None:
    workplace = Workplace(tmp_path / "work", SHORT | {"train.max_steps": "2"})
    workplace.environment = {"FORGE_RUN_ROOT": ""}
    root = ("--set", f"run.root={tmp_path}/else where")
    workplace.train(*root)
    output = workplace.train(*root, "--set", "train.max_steps=1", expect=1).output
    (command,) = re.findall(r"forge (runs clear .*)", output)
    workplace.forge(*shlex.split(command), "--yes").finish(expect=0)
    workplace.train(*root, "--set", "train.max_steps=1")


@pytest.mark.parametrize(
    "command",
    [
        ["runs", "show"],
        ["runs", "metrics"],
        ["runs", "path"],
        ["checkpoints", "list"],
        ["uploads", "status"],
    ],
    ids=" ".join,
)
def test_a_command_without_a_name_takes_the_newest_run_and_says_so(
    reference: Reference, command: list[str]
) -> None:
    workplace = reference("fp32")
    unnamed = forge(workplace, *command)
    named = forge(workplace, *command, "tiny")
    assert unnamed.stderr == "no run was named: taking the newest, tiny\n"
    assert (without_ages(unnamed.stdout), named.stderr) == (without_ages(named.stdout), "")
    assert unnamed.returncode == named.returncode == 0


def test_a_command_without_a_name_says_when_there_is_nothing_to_take(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work")
    for command in (["runs", "show"], ["sweep", "status"], ["sweep", "show"]):
        done = forge(workplace, *command)
        assert done.returncode == 1
        assert re.match(r"forge: no (run|sweep)s in ", done.stderr)


@pytest.mark.slow
def test_a_sweep_without_a_name_is_the_newest_and_pruned_trials_are_called_so(
    tmp_path: Path,
) -> None:
    place = SweepPlace(tmp_path / "sweep")
    place.sweep()
    for command in ("status", "show"):
        done = forge(place, "sweep", command)
        assert "no sweep was named: taking the newest, s" in done.stderr
        assert done.stdout == forge(place, "sweep", command, "s").stdout
    states = [trial["state"] for trial in place.trials()]
    listed = forge(place, "runs", "list").stdout.splitlines()[1:]
    assert sorted(line.split()[1] for line in listed) == sorted(states)
    assert states.count("pruned") >= 2
    unfinished = forge(place, "runs", "status").stdout
    assert "tune_" not in unfinished  # nothing of it waits for anyone


def test_what_is_piped_in_is_the_prompt(reference: Reference) -> None:
    generate = ["generate", "tiny", "--seed", "1"]
    given = forge(reference("fp32"), *generate, "--prompt", "The")
    assert given.stdout.startswith("The")
    assert forge(reference("fp32"), *generate, stdin="The\n").stdout == given.stdout
    dash = forge(reference("fp32"), *generate, "--prompt", "-", stdin="The\n")
    assert dash.stdout == given.stdout
    # An empty pipe is no prompt; the recipe's own are taken, as without one.
    assert forge(reference("fp32"), *generate, stdin="").stdout.startswith("The river")


def without_ages(text: str) -> str:
    return re.sub(r"\d+[smh] ago", "", text)


def forge(
    workplace: Workplace, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmforge", *arguments],
        cwd=workplace.path,
        env=environment(workplace),
        capture_output=True,
        text=True,
        timeout=120,
        **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),
    )
