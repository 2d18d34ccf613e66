"""The root command: what it lists without importing, and how it fails."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from llmforge.cli.app import OWN, app


@pytest.mark.parametrize("name", OWN)
def test_help_says_of_a_command_what_the_command_says_of_itself(name: str) -> None:
    group = typer.main.get_command(app)
    command = group.get_command(group.make_context("forge", [], resilient_parsing=True), name)
    assert command is not None
    assert (command.help or "").splitlines()[0] == OWN[name].help


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from llmforge.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'llmforge.cli.train', 'llmforge.cli.runs'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


def test_unknown_command_names_the_nearest() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmforge", "trian"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean 'train'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_train_without_a_recipe_names_the_shipped_ones() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmforge", "train"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "wikitext_tiny" in done.stderr


def test_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("llmforge ")


def test_usage_has_one_pair_of_brackets_around_an_argument() -> None:
    for command in ("runs show", "runs delete", "runs tag", "ui export", "checkpoints compare"):
        shown = CliRunner().invoke(app, [*command.split(), "--help"]).stdout
        usage = next(line for line in shown.splitlines() if "Usage" in line)
        assert "[[" not in usage.replace("[OPTIONS]", "")
        assert "......" not in usage
        assert "...]..." not in usage
        assert "...}..." not in usage


def test_ctrl_c_before_a_command_is_imported_leaves_no_traceback() -> None:
    script = (
        "import builtins, sys\n"
        "real = builtins.__import__\n"
        "def stopped(name, *rest, **more):\n"
        "    if name == 'llmforge.cli.app':\n"
        "        raise KeyboardInterrupt\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = stopped\n"
        "sys.argv = ['forge', 'runs', 'list']\n"
        "from llmforge.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "forge: stopped\n")
