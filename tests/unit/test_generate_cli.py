"""``forge generate``: what it prints where, for every way of giving a prompt."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from generate_parts import make_trained_run
from typer.testing import CliRunner, Result

from llmforge.cli import generate as command
from llmforge.errors import RecipeError, RunError, UsageError

app = typer.Typer()
app.command()(command.generate)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORGE_RUN_ROOT", raising=False)
    make_trained_run(tmp_path / "runs", "run-1")
    return tmp_path / "runs"


def forge(*arguments: str, stdin: str | None = None) -> Result:
    """Run the command, raising its error."""
    return CliRunner().invoke(
        app, [*arguments, "--device", "cpu"], input=stdin, catch_exceptions=False
    )


def test_only_the_text_goes_to_standard_output(root: Path) -> None:
    done = forge("run-1", "-p", "The history of", "--greedy")
    assert done.stdout.startswith("The history of")
    assert "run-1 at step 1, cpu, fp32" in done.stderr
    assert "run-1" not in done.stdout


def test_streaming_changes_nothing_but_the_time(root: Path) -> None:
    streamed = forge("run-1", "-p", "abc", "--seed", "4")
    at_once = forge("run-1", "-p", "abc", "--seed", "4", "--no-stream")
    assert streamed.stdout == at_once.stdout
    assert forge("run-1", "-p", "abc", "--seed", "5").stdout != streamed.stdout


def test_without_a_run_the_newest_is_taken_and_named(root: Path) -> None:
    make_trained_run(root, "run-2")
    assert "newest, run-2" in forge("-p", "a").stderr


def test_json_holds_prompts_options_and_completions(root: Path) -> None:
    done = forge("run@2", "-p", "a", "-p", "b", "-n", "2", "--top-k", "5", "--stop", "x", "--json")
    found = json.loads(done.stdout)
    assert [item["prompt"] for item in found["completions"]] == ["a", "a", "b", "b"]
    assert found["completions"][0].keys() == {"prompt", "text", "tokens", "finish", "seconds"}
    assert (found["run"], found["step"], found["seed"]) == ("run-1", 2, 0)
    assert (found["options"]["top_k"], found["options"]["stop"]) == (5, ["x"])


def test_without_a_prompt_and_a_terminal_the_recipes_prompts_are_taken(root: Path) -> None:
    assert forge("run-1").stdout.startswith("from the recipe")


def test_a_dash_reads_the_prompt_from_standard_input(root: Path) -> None:
    done = forge("run-1", "-p", "-", "--max-new-tokens", "1", stdin="two\nlines\n")
    assert done.stdout.startswith("two\nlines")
    assert not done.stdout.startswith("two\nlines\n\n")


def test_a_file_holds_a_prompt_a_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\ntwö\n", encoding="utf-8")
    found = json.loads(forge("run-1", "--prompts-file", "prompts.txt", "--json").stdout)
    assert [item["prompt"] for item in found["completions"]] == ["one", "twö"]


def test_a_recipe_of_its_own_says_what_to_do_and_flags_win(root: Path, tmp_path: Path) -> None:
    (tmp_path / "generate.toml").write_text(
        '[generation]\ncheckpoint = "run-1@last"\nprompts = ["p"]\nsamples = 2\nseed = 3\n'
        "[generation.sampler]\nmax_new_tokens = 3\ntop_k = 7\n"
    )
    found = json.loads(forge("--recipe", "generate.toml", "--top-k", "9", "--json").stdout)
    assert (found["step"], found["seed"], found["options"]["top_k"]) == (2, 3, 9)
    assert found["options"]["max_new_tokens"] == 3
    assert len(found["completions"]) == 2
    other = forge("run-1@1", "--recipe", "generate.toml", "-p", "q", "-n", "1", "--json")
    found = json.loads(other.stdout)
    assert found["step"] == 1
    assert [item["prompt"] for item in found["completions"]] == ["q"]


def test_the_root_may_be_given(root: Path, tmp_path: Path) -> None:
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="no runs"):
        forge("-p", "a")
    assert forge("-p", "a", "--root", str(tmp_path / "elsewhere")).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["run-7", "-p", "a"], RunError, "no run 'run-7'"),
        (["run-1", "-p", "a", "--top-p", "3"], RecipeError, r"sampler\.top_p"),
        (["run-1", "-p", "a", "--dtype", "fp8"], UsageError, "fp8"),
        (["run-1", "--prompts-file", "none.txt"], UsageError, r"none\.txt cannot be read"),
        (["run-1", "--prompts-file", "empty.txt"], UsageError, "holds no prompt"),
    ],
)
def test_mistakes_are_told(
    root: Path, tmp_path: Path, arguments: list[str], error: type[Exception], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(error, match=message):
        forge(*arguments)


def test_a_terminal_gets_a_session_with_the_prompt_in_bold(root: Path, tmp_path: Path) -> None:
    program = (
        "import typer\nfrom llmforge.cli.generate import generate\n"
        "app = typer.Typer()\napp.command()(generate)\napp()\n"
    )
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, "run-1", "--device", "cpu", "--greedy"],
        cwd=tmp_path,
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(terminal)
    os.write(main, b"/set max_new_tokens=2\nHello\n/quit\n")
    _, notes = process.communicate(timeout=120)
    shown = os.read(main, 100_000)
    os.close(main)
    assert process.returncode == 0
    assert b"\033[1mHello\033[0m" in shown
    assert b"/help lists the commands" in notes


def test_the_module_is_light() -> None:
    code = "import sys, llmforge.cli.generate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
