"""The Python of pages that train something runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NOTEBOOK_CHECKS = """
assert result.state == "completed"
assert losses
again = train(
    "wikitext_tiny", profile="test", overrides={"data.wikitext.offline_sample": True}
)
assert again.skipped
assert again.metrics == result.metrics
assert again.samples == result.samples
result.run.directory.summary.unlink()
assert train("wikitext_tiny", profile="test").metrics["val/loss"] == result.metrics["val/loss"]
"""

RECIPE = """
extends = "wikitext_tiny"
[model.transformer]
preset = "nano"
context = 32
[train]
max_steps = 4
[generation]
prompts = []
"""


def python(page: str) -> str:
    """Return the Python of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def run(tmp_path: Path, *arguments: str) -> None:
    """Run Python in ``tmp_path``, without the network."""
    environment = {**os.environ, "FORGE_OFFLINE": "1", "FORGE_CACHE": str(tmp_path / "cache")}
    environment.pop("FORGE_RUN_ROOT", None)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_notebook(tmp_path: Path) -> None:
    run(tmp_path, "-c", python("docs/how-to/notebook.md") + NOTEBOOK_CHECKS)
    assert (tmp_path / "runs").is_dir()


def test_readme(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(RECIPE)
    run(tmp_path, "-c", python("README.md"))
    assert (tmp_path / "runs").is_dir()


@pytest.mark.slow
def test_sweep(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(
        RECIPE + '[sweep]\nname = "random"\n[sweep.space]\ntrain.batch_size = { choice = [2, 4] }\n'
    )
    code = python("docs/how-to/sweep.md")
    run(tmp_path, "-c", code.replace("wikitext_tiny_sweep", "my.toml").replace("20}", "2}"))
    assert (tmp_path / "runs" / "sweeps").is_dir()


@pytest.mark.slow
def test_test_of_a_plugin(tmp_path: Path) -> None:
    """``how-to/write-a-plugin.md``, with a tracker that is installed."""
    blocks = re.findall(
        r"```python\n(.*?)```",
        (ROOT / "docs/how-to/write-a-plugin.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    (code,) = [block for block in blocks if "forge_recipe" in block]
    (tmp_path / "test_it.py").write_text(code.replace('"acme"', '"csv"'))
    run(tmp_path, "-m", "pytest", "-q", "test_it.py")
