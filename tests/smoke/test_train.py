"""``forge train`` from the outside: done is remembered and mistakes are told, without torch."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import Workplace

NO_TORCH = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "numpy", "tokenizers"):
            raise AssertionError(f"{name} was imported")


sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """Variables under which importing torch, numpy or tokenizers fails."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_TORCH)
    return {"PYTHONPATH": str(folder)}


def test_the_guard_against_torch_works(workplace: Workplace, without_torch: dict[str, str]) -> None:
    guarded = dataclasses.replace(workplace, environment=without_torch)
    assert " was imported" in guarded.train(expect=1).output


def test_a_completed_run_is_skipped_at_once_without_torch(
    tmp_path: Path, reference: Reference, without_torch: dict[str, str]
) -> None:
    done = reference("fp32").copy(tmp_path / "copy")
    guarded = dataclasses.replace(done, environment=without_torch)
    record = done.run.record.read_bytes()

    took = []
    for _ in range(3):
        began = time.monotonic()
        output = guarded.train().output
        took.append(time.monotonic() - began)

    assert min(took) < 3  # well under a second on an idle machine: benchmarks/startup.py
    first, *rest = output.splitlines()
    assert first.startswith("tiny: already completed on ")
    assert "all 60 steps taken" in first
    assert "forge runs clear tiny" in "".join(rest)
    assert done.run.record.read_bytes() == record


def test_a_cleared_run_is_trained_afresh_and_the_old_one_kept(
    tmp_path: Path, reference: Reference
) -> None:
    done = reference("fp32").copy(tmp_path / "copy")
    before = done.result()

    cleared = done.forge_here("runs", "clear", "tiny", "--yes")
    aside = done.run.root / ".archive" / "tiny.attempt-1"
    assert "tiny" in cleared
    assert json.loads((aside / "run.json").read_text())["state"] == "completed"
    assert not done.run.path.exists()

    done.train_here()
    assert done.record["attempt"] == 2
    assert done.record["restarts"] == 1
    assert done.result() == before
    assert "already completed" in done.train_here()


FIVE_MISTAKES = """\
[run]
seed = 7

[model]
name = "transfromer"

[data]
name = "text"
[data.text]
train = "train.txt"

[train]
max_steps = 60
batch_size = 0
warmup_steps = 5

[optimiser]
name = "adamw"

[schedule]
name = "cosine"
[schedule.cosine]
warmup = "a tenth"
"""


def test_every_mistake_of_a_recipe_is_told_at_once_without_torch(
    workplace: Workplace, without_torch: dict[str, str]
) -> None:
    (workplace.path / "recipe.toml").write_text(FIVE_MISTAKES)
    guarded = dataclasses.replace(workplace, environment=without_torch)

    output = guarded.train(expect=2).output

    lines = {
        "recipe.toml:5": "did you mean 'transformer'",
        "recipe.toml:14": "train.batch_size",
        "recipe.toml:15": "belongs in [schedule.cosine]",
        "recipe.toml:17": "did you mean 'optimizer'",
        "recipe.toml:23": "schedule.cosine.warmup",
    }
    for where, what in lines.items():
        told = [line for line in output.splitlines() if f"{where}:" in line]
        assert len(told) == 1, f"{where}\n{output}"
        assert what in told[0]
    assert "5 problems" in output
    assert "Traceback" not in output
    assert not workplace.run.root.exists()
