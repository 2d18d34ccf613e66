"""Pytest fixtures for plugin authors, loaded by pytest through llmforge's entry point.

Every pytest session of an environment with llmforge in it imports this module, so it imports
nothing but pytest; the rest is imported by the fixture that needs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from llmforge import RunContext

pytest.register_assert_rewrite("llmforge.testing.contracts")


class RecipeWriter(Protocol):
    """What the fixture ``forge_recipe`` hands out."""

    def __call__(self, text: str, *, name: str = "recipe.toml") -> Path:
        """Write the recipe ``text``, its common indentation removed; return the file."""
        ...


class CommandRunner(Protocol):
    """What the fixture ``forge_cli`` hands out."""

    def __call__(
        self, *arguments: str | Path, expect: int | None = 0, timeout: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Run ``forge`` with ``arguments`` in the test's own directory.

        Args:
            arguments: the command line after ``forge``.
            expect: the exit code that passes; None accepts any.
            timeout: seconds after which the process is killed and the test fails.
        """
        ...


@pytest.fixture
def forge_run_context(tmp_path: Path) -> RunContext:
    """The context of a small run on the CPU in the test's own directory."""
    from llmforge.testing.context import run_context

    return run_context(tmp_path)


@pytest.fixture
def forge_recipe(tmp_path: Path) -> RecipeWriter:
    """A function that writes a recipe file into the test's own directory."""

    def write(text: str, *, name: str = "recipe.toml") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def forge_cli(tmp_path: Path) -> CommandRunner:
    """A function that runs ``forge`` in a process of its own, its runs under the test's directory.

    Its output is captured: ``stdout`` and ``stderr`` of the result are text.
    """
    environment = {
        **os.environ,
        "FORGE_RUN_ROOT": str(tmp_path / "runs"),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        "PYTHONIOENCODING": "utf-8",
    }

    def run(
        *arguments: str | Path, expect: int | None = 0, timeout: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llmforge", *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if expect is not None and done.returncode != expect:
            pytest.fail(
                f"forge {' '.join(map(str, arguments))} exited with {done.returncode}, "
                f"not {expect}\n{done.stdout}\n{done.stderr}",
                pytrace=False,
            )
        return done

    return run
