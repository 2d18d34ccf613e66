"""``forge prove-resume`` notices when a protection is missing: one is taken out, in a copy."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from forge_process import Workplace

from llmforge.proof.certificate import read_certificate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
EVERY = {
    "train.max_steps": "14",
    "train.log_every": "1",
    "eval.every": "4",
    "checkpoint.every": "3",
}


@dataclass(frozen=True)
class Missing:
    """A protection that is taken out.

    Attributes:
        edits: file, text, what it is replaced with.
        shows_in: the comparisons in which it must show; empty where the resumed run fails.
        names: a key, tensor or row that the output must name.
        settings: what makes it matter in so short a run.
    """

    edits: tuple[tuple[str, str, str], ...]
    shows_in: tuple[str, ...]
    names: str
    settings: dict[str, str] = field(default_factory=dict)


MISSING = {
    "the position in the data is not restored": Missing(
        (
            (
                "llmforge/run/trainer_state.py",
                'best = values.pop("best", None)',
                'best = values.pop("best", None)\n        values["sequences"] = 0',
            ),
        ),
        ("data order", "metrics history", "trainer state", "weights"),
        "tokens_seen",
    ),
    "random numbers do not follow from the step": Missing(
        (
            (
                "llmforge/run/training/loop.py",
                "TRAINING, state.step, index)",
                "TRAINING, state.step - self._first_step, index)",
            ),
        ),
        ("weights", "optimizer state", "metrics history"),
        "train/loss",
    ),
    "the optimizer's state is dropped": Missing(
        (
            (
                "plugins/llmforge_plugins/backends/_engine.py",
                "        _state.load_optimizer_state("
                "self.model, self.optimizer, state.optimizer, state.values)\n",
                "",
            ),
        ),
        ("weights", "optimizer state", "metrics history"),
        "/step",
    ),
    "rows of metrics after the checkpoint stay": Missing(
        (
            (
                "llmforge/run/reporting/telemetry.py",
                "        cut_rows(self._directory.metrics, from_step=step)\n",
                "",
            ),
        ),
        ("metrics history",),
        "row ",
    ),
    "a half-written checkpoint is taken for a whole one": Missing(
        (
            (
                "llmforge/checkpoint/publish.py",
                '        elif path.name.startswith("."):\n            _remove(path)',
                "        elif path.name.startswith(_NEW):\n"
                '            path.rename(directory / path.name[5 : path.name.rindex("-")])',
            ),
            ("llmforge/checkpoint/restore.py", "wrong = verify(path)\n        if", "if"),
            ("llmforge/checkpoint/restore.py", "if not wrong:", "if True:"),
        ),
        (),
        "manifest.json is missing",
    ),
    "the best evaluation and the patience are forgotten": Missing(
        (
            (
                "llmforge/run/trainer_state.py",
                'best = values.pop("best", None)',
                'best = values.pop("best", None) and None\n        values["stale_evaluations"] = 0',
            ),
        ),
        ("trainer state", "best checkpoint", "how the run ended"),
        "best.",
        {"early_stopping.min_delta": "10.0"},  # no evaluation is better than the first
    ),
}


def mutated(path: Path, missing: Missing) -> Path:
    """Copy the sources to ``path`` and take the protection out there."""
    for name in ("llmforge", "plugins", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, path / name, ignore=ignored)
    for name, old, new in missing.edits:
        file = path / name
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} is in {name} {text.count(old)} times, and not once"
        file.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_protection_is_found_and_shown(tmp_path: Path, name: str) -> None:
    missing = MISSING[name]
    tree = mutated(tmp_path / "tree", missing)
    path = os.pathsep.join([str(tree), str(tree / "plugins")])
    place = Workplace(tmp_path / "place", environment={"PYTHONPATH": path})
    settings = {**EVERY, **missing.settings}
    process = place.forge(
        *("prove-resume", "recipe.toml", "--kills", "4", "-o", "proof.json"),
        *[part for key, text in settings.items() for part in ("--set", f"{key}={text}")],
    )
    process.finish(expect=1, within=900)
    certificate = read_certificate(place.path / "proof.json")
    print(process.output)
    assert certificate.verdict == "differs"
    assert missing.names in process.output
    assert "NOT PROVED" in process.output
    failures = [item.failure for item in certificate.killed if item.failure]
    assert bool(failures) == (not missing.shows_in), failures
    found = {
        comparison.name
        for item in certificate.killed
        for comparison in item.comparisons
        if comparison.result == "differs"
    }
    assert set(missing.shows_in) <= found
    directory = certificate.reference.directory
    assert directory is not None, "the runs are not kept, although they differ"
    assert json.loads((Path(directory) / "run.json").read_text())["state"] == "completed"
