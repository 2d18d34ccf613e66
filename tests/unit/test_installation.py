"""What people are told to install is what they need, and nobody else's package."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import requires
from pathlib import Path

import pytest

from llmforge import install_command
from llmforge.installed import DISTRIBUTION
from llmforge.plugins import listed, load

ROOT = Path(__file__).parents[2]

SOMEBODY_ELSES = re.compile(
    r"\b(?:pip3?|uv|pipx|poetry|conda)\b[^\n]*\b(?:install|add)\b"
    r"[^\n#]*[\s'\"]llmforge(?:\[[\w,]+\]|[=><~!]=|['\"`\s]|$)"
    r"|(?<![\w-])llmforge\["
)
"""A line that would install the package ``llmforge`` of PyPI."""


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("no git checkout")
    return [ROOT / name for name in listed.stdout.splitlines()]


@pytest.mark.parametrize(
    "line",
    [
        "pip install llmforge",
        "pip install llmforge  # or, in a clone",
        "pip install 'llmforge[wandb]'",
        "remedy=\"pip install 'llmforge[zstd]'\"",
        "uv pip install llmforge==0.1.0",
        "uv add llmforge",
        'extra = "llmforge[gcs]"',
    ],
)
def test_the_search_finds_what_would_install_it(line: str) -> None:
    assert SOMEBODY_ELSES.search(line)


@pytest.mark.parametrize(
    "line",
    ["pip install -e .", "pip install dist/llmforge_train-*.whl", "pip install 'wandb>=0.31'"],
)
def test_the_search_finds_nothing_else(line: str) -> None:
    assert not SOMEBODY_ELSES.search(line)


def test_nobody_is_told_to_install_somebody_elses_package() -> None:
    found = []
    for path in tracked():
        if path == Path(__file__) or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [
            f"{path.relative_to(ROOT)}: {line.strip()}"
            for line in text.splitlines()
            if SOMEBODY_ELSES.search(line)
        ]
    assert found == []


@pytest.mark.parametrize("module", ["wandb", "s3fs", "deepspeed", "psycopg", "zstandard"])
def test_a_remedy_is_the_requirement_in_the_installed_metadata(module: str) -> None:
    wanted = install_command(module).removeprefix("pip install ").strip("'")
    assert re.match(rf"{module}(\[\w+\])?>=\d", wanted)
    assert any(text.replace(" ", "").startswith(wanted) for text in requires(DISTRIBUTION) or ())


def test_a_package_that_nobody_requires_is_named_as_it_is_imported() -> None:
    assert install_command("no_such.inside", "wandb").startswith("pip install no_such 'wandb>=")


def test_every_component_has_a_remedy_with_a_version() -> None:
    own = [entry for entry in listed() if entry.distribution == DISTRIBUTION]
    needed = {module for entry in own for module in load(entry.kind, entry.name).requires}
    assert len(needed) >= 5
    assert [module for module in needed if ">=" not in install_command(module)] == []
