"""Arguments that are taken without pydantic: what a command gets is what typer would give it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from run_parts import make_run
from typer.core import TyperGroup
from typer.testing import CliRunner

from llmforge.cli.plain_values import take_plain_values


class _PlainGroup(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        take_plain_values(self, ctx)
        return super().parse_args(ctx, args)


def _outcome(arguments: list[str], *, plain: bool) -> tuple[int, str, Any]:
    """Return exit code, output and the values that a command gets."""
    taken: Any = None
    app = typer.Typer(cls=_PlainGroup if plain else TyperGroup)

    @app.command()
    def command(
        name: Annotated[str | None, typer.Argument()] = None,
        each: Annotated[list[str] | None, typer.Option()] = None,
        count: Annotated[int, typer.Option(min=0, max=9)] = 1,
        most: int | None = None,
        share: float = 1,
        per: Literal["step", "epoch"] = "step",
        where: Path | None = None,
        switch: bool = False,
    ) -> None:
        nonlocal taken
        taken = (name, each, count, most, share, per, where, switch)

    @app.command()
    def other() -> None: ...

    result = CliRunner().invoke(app, ["command", *arguments])
    return result.exit_code, result.output, (taken, repr(taken))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x"],
        ["naïve"],
        ["\udcff"],
        [""],
        ["--each", "a=1", "--each", "ü"],
        ["--each", "a=1", "--each", "b"],
        ["--count", "3"],
        ["--count", "10"],
        ["--count", "-1"],
        ["--count", "x"],
        ["--most", "12"],
        ["--share", "2"],
        ["--per", "epoch"],
        ["--per", "day"],
        ["--where", "a/b"],
        ["--switch"],
        ["--help"],
        ["--no-such"],
    ],
)
def test_a_command_gets_what_typer_gives(arguments: list[str]) -> None:
    assert _outcome(arguments, plain=True) == _outcome(arguments, plain=False)


@pytest.mark.parametrize("command", [["runs", "path", "x"], ["runs", "list"]])
def test_looking_at_runs_imports_no_pydantic(tmp_path: Path, command: list[str]) -> None:
    make_run(tmp_path, "x-1")
    program = (
        "import sys; from llmforge.__main__ import main\n"
        f"sys.argv = ['forge', *{command!r}]\n"
        "try: main()\n"
        "finally: assert 'pydantic' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={"FORGE_RUN_ROOT": str(tmp_path), "PATH": ""},
        stdout=subprocess.DEVNULL,
        check=True,
    )
