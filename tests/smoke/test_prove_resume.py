"""``forge prove-resume``: a run that is killed compares equal, and what is altered does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from forge_process import RECIPE, Workplace
from proof_parts import RECIPES, TRAINABLE, prove_shipped

from llmforge.proof.certificate import Comparison, read_certificate, verify_certificate
from llmforge.proof.compare_runs import compare_runs
from llmforge.rundir import RunDirectory

pytestmark = pytest.mark.timeout(450)

SHORT = {
    "train.max_steps": "12",
    "eval.every": "4",
    "checkpoint.every": "4",
    "train.log_every": "2",
}


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A proof of one kill whose runs were kept."""
    workplace = Workplace(tmp_path_factory.mktemp("proved"), SHORT, recipe=RECIPE)
    settings = [part for key, text in SHORT.items() for part in ("--set", f"{key}={text}")]
    process = workplace.forge(
        *("prove-resume", "recipe.toml", *settings, "--kills", "1", "--seed", "1", "--keep"),
        *("-o", "proof.json"),
    )
    process.finish(expect=0, within=400)
    (workplace.path / "printed.txt").write_text(process.output, encoding="utf-8")
    return workplace


@pytest.fixture
def runs(proved: Workplace, tmp_path: Path) -> tuple[RunDirectory, RunDirectory]:
    """The reference, and a copy of the run that was killed, to be altered."""
    certificate = read_certificate(proved.path / "proof.json")
    assert certificate.reference.directory is not None
    killed = certificate.killed[0].run.directory
    assert killed is not None
    root = tmp_path / "runs"
    shutil.copytree(Path(killed).parent, root)
    return RunDirectory(Path(certificate.reference.directory)), RunDirectory(root / "tiny")


def differing(runs: tuple[RunDirectory, RunDirectory]) -> dict[str, Comparison]:
    return {item.name: item for item in compare_runs(*runs) if item.result != "equal"}


def test_a_killed_run_compares_equal_and_the_certificate_says_so(proved: Workplace) -> None:
    path = proved.path / "proof.json"
    certificate = read_certificate(path)
    assert certificate.verdict == "proved"
    (kill,) = certificate.all_kills
    assert kill.aimed_at in ("saving", "uploading", "evaluating")
    assert kill.aimed_at in kill.phases
    assert kill.pid > 0
    assert {item.result for run in certificate.killed for item in run.comparisons} == {"equal"}
    assert verify_certificate(path) == []
    printed = (proved.path / "printed.txt").read_text(encoding="utf-8")
    assert "proved: tiny: 1 kill (" in printed
    assert "kill 1 of 1: process" in printed


def test_nothing_of_a_proof_is_among_the_runs(proved: Workplace) -> None:
    assert json.loads(proved.forge_here("runs", "list", "--json")) == []


def test_a_run_that_was_altered_since_is_noticed(proved: Workplace, tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    body: dict[str, Any] = json.loads((proved.path / "proof.json").read_text(encoding="utf-8"))
    copied = tmp_path / "tiny"
    shutil.copytree(body["reference"]["directory"], copied)
    body["reference"]["directory"] = str(copied)
    path.write_text(json.dumps(body), encoding="utf-8")
    assert [problem.key for problem in verify_certificate(path)] == ["seal"]
    with (copied / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 13}\n')
    assert [problem.key for problem in verify_certificate(path)] == ["seal", "files"]


def test_rows_that_were_written_twice_are_a_difference(
    runs: tuple[RunDirectory, RunDirectory],
) -> None:
    rows = runs[1].metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    runs[1].metrics.write_text("".join([*rows[:3], *rows[1:]]), encoding="utf-8")
    found = differing(runs)["metrics history"].differences
    assert found[0].name == "row 4"
    assert "not one of step" in found[0].what


def test_a_state_that_is_another_is_named_with_its_key(
    runs: tuple[RunDirectory, RunDirectory],
) -> None:
    trainer = max(runs[1].checkpoints.glob("step-????????")) / "trainer.json"
    body = json.loads(trainer.read_text(encoding="utf-8"))
    body["sequences"] += 8
    trainer.write_text(json.dumps(body), encoding="utf-8")
    found = differing(runs)
    assert [item.name for item in found["trainer state"].differences] == ["sequences"]
    assert found["trainer state"].differences[0].largest == 8
    assert "data order" in found
    damage = found["weights"].differences[0]
    assert damage.name == "step-00000012"
    assert "trainer.json" in damage.what  # the manifest has its size and hash


def test_a_metric_within_the_tolerance_is_close(runs: tuple[RunDirectory, RunDirectory]) -> None:
    text = runs[1].metrics.read_text(encoding="utf-8").splitlines()
    row = json.loads(text[-1])
    row["train/loss"] *= 1 + 1e-6
    runs[1].metrics.write_text("\n".join([*text[:-1], json.dumps(row), ""]), encoding="utf-8")
    assert list(differing(runs)) == ["metrics history"]
    found = {item.name: item.result for item in compare_runs(*runs, tolerance=1e-3)}
    assert found["metrics history"] == "close"
    assert "differs" not in found.values()


def test_a_recipe_without_checkpoints_has_nothing_to_resume(tmp_path: Path) -> None:
    recipe = RECIPE.replace("every = 3\nkeep_last = 2", "enabled = false")
    output = Workplace(tmp_path, recipe=recipe).forge_here("prove-resume", "recipe.toml", expect=2)
    assert "saves no checkpoint" in output


def test_a_certificate_cannot_replace_a_directory(workplace: Workplace) -> None:
    output = workplace.forge_here("prove-resume", "recipe.toml", "-o", ".", expect=2)
    assert "is a directory" in output


@pytest.mark.slow
def test_a_proof_that_is_stopped_leaves_nothing_running(workplace: Workplace) -> None:
    process = workplace.forge("prove-resume", "recipe.toml")
    own = psutil.Process(process.process.pid)
    assert process.wait_for(lambda _: len(own.children(recursive=True)) == 2)  # and the courier
    started = own.children(recursive=True)
    process.process.terminate()
    process.finish(expect=75)
    assert "nothing is left running" in process.output
    gone, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    assert len(gone) == 2
    assert not (workplace.path / "runs" / ".prove" / "tiny").exists()


def test_every_shipped_recipe_that_trains_is_proved() -> None:
    assert sorted(RECIPES) == TRAINABLE


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("recipe", TRAINABLE)
def test_a_shipped_recipe_resumes_exactly(tmp_path: Path, recipe: str) -> None:
    _, body = prove_shipped(tmp_path, recipe)
    assert body["verdict"] == "proved"
    assert sum(len(item["kills"]) for item in body["killed"]) == 3
