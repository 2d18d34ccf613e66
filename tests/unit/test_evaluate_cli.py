"""``forge evaluate``: a checkpoint measured on a split, and where the result is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import typer
from generate_parts import RECIPE, make_model, make_trained_run
from typer.testing import CliRunner, Result

from llmforge.cli import evaluate as command
from llmforge.errors import DataError, RunError, UsageError
from llmforge.rundir import RunDirectory, read_record, write_record

FILES = '[data.text]\npath = "nowhere.txt"\n'

app = typer.Typer()
app.command()(command.evaluate)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORGE_RUN_ROOT", raising=False)
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    text = "the quick brown fox jumps over the lazy dog, again and again\n" * 40
    Path("nowhere.txt").write_text(text, encoding="utf-8")
    return make_trained_run(tmp_path / "runs", "run-1")


def forge(*arguments: str) -> Result:
    """Run the command, raising its error."""
    return CliRunner().invoke(app, [*arguments, "--device", "cpu"], catch_exceptions=False)


def measured(*arguments: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(forge(*arguments, "--json").stdout)
    return found


def test_loss_perplexity_and_bits_per_byte_are_told_and_kept(run: RunDirectory) -> None:
    output = forge("run-1@last").stdout
    assert "run-1@2 on validation" in output
    for name in ("val/loss", "val/perplexity", "val/bits_per_byte"):
        assert name in output
    (kept,) = json.loads(run.evaluation.read_text())
    assert (kept["checkpoint"], kept["split"]) == ("step-00000002", "validation")
    assert kept["val/loss"] > 0


def test_another_split_and_another_checkpoint_have_results_of_their_own(run: RunDirectory) -> None:
    best = measured("run-1@best")
    assert measured("run-1@1", "--split", "train")["train/loss"] > 0
    assert measured("run-1@2")["val/loss"] != best["val/loss"]
    assert measured("run-1@best")["val/loss"] == best["val/loss"]
    kept = json.loads(run.evaluation.read_text())
    assert {(item["step"], item["split"]) for item in kept} == {
        (1, "validation"),
        (1, "train"),
        (2, "validation"),
    }
    assert len(kept) == 3


def test_legacy_weights_are_measured_and_not_taken_for_the_runs(
    run: RunDirectory, tmp_path: Path
) -> None:
    torch.save(dict(make_model(2).named_parameters()), tmp_path / "weights.pt")
    found = measured("run-1@1", "--weights", "weights.pt")
    assert not run.evaluation.exists()
    assert found["val/loss"] == measured("run-1@2")["val/loss"]


def test_a_copied_checkpoint_is_measured_and_leaves_no_file_beside_it(
    run: RunDirectory, tmp_path: Path
) -> None:
    copied = tmp_path / "elsewhere" / "taken" / "copy"
    shutil.copytree(run.checkpoints / "step-00000002", copied)
    output = forge(str(copied)).stdout
    assert str(copied) in output
    assert "not kept" in output
    assert list((tmp_path / "elsewhere").rglob("evaluation.json")) == []


def test_an_unknown_split_is_answered_with_those_there_are(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match=r"no split 'test'\n.*train or validation"):
        forge("run-1", "--split", "test")


def test_data_that_is_gone_is_named(run: RunDirectory) -> None:
    Path("nowhere.txt").unlink()
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        forge("run-1")


def test_it_measures_on_what_the_run_chose_to_train_on(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_OFFLINE", "1")
    recipe = RECIPE.replace('name = "text"', 'name = "wikitext"').replace(FILES, "")
    other = make_trained_run(run.root, "on-the-sample", recipe=recipe)
    with pytest.raises(DataError, match="not reachable"):
        forge("on-the-sample")
    record = read_record(other)
    record.resolved["data"] = {"source": "sample"}
    write_record(other, record)
    assert measured("on-the-sample")["tokens"] > 10_000


def test_data_that_changed_is_told(run: RunDirectory) -> None:
    measured("run-1")
    record = read_record(run)
    record.fingerprints["data"] = "that of other data"
    write_record(run, record)
    assert "not what the run was trained on" in forge("run-1").stderr


def test_a_damaged_file_of_results_is_named_after_the_result_is_told(run: RunDirectory) -> None:
    run.evaluation.write_text("{")
    with pytest.raises(RunError, match=r"evaluation\.json"):
        forge("run-1")
    assert run.evaluation.read_text() == "{"
