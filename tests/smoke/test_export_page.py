"""The code of docs/how-to/export.md and of a model card runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "export.md"


def run(place: Path, *arguments: str) -> str:
    """Run Python in ``place`` without the network; return what it prints."""
    settings = {"FORGE_OFFLINE": "1", "FORGE_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **settings}
    environment.pop("FORGE_RUN_ROOT", None)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(path: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_and_the_card_run(tmp_path: Path) -> None:
    commands = re.findall(r"\$ (forge (?:train|export) .*\btiny\b.*)", PAGE.read_text("utf-8"))
    assert len(commands) == 2
    for command in commands:
        run(tmp_path, "-m", "llmforge", *command.split()[1:])
    output = run(tmp_path, "-c", python(PAGE))
    assert output.startswith("The history of")
    assert re.search(r"^tiny-bf16 [0-9a-f]{64}$", output, re.MULTILINE)
    card = tmp_path / "wikitext-model" / "README.md"
    assert run(card.parent, "-c", python(card)).strip()
