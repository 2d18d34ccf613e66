"""``forge checkpoints show``, ``compare`` and ``plot``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_slices import slice_up
from generate_parts import RECIPE, make_trained_run
from run_parts import training_rows, write_rows
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from llmforge.cli.checkpoints import app
from llmforge.errors import CheckpointError, UsageError
from llmforge.rundir import RunDirectory

EVAL = "[eval]\nevery = 7\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setenv("FORGE_RUN_ROOT", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "100")
    directory = make_trained_run(tmp_path / "runs", "run-1", steps=3)
    write_rows(directory.metrics, training_rows(6, log_every=1, eval_every=2))
    return directory


def forge(*arguments: str) -> str:
    """Run the command, raising its error, and return what it prints."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def shown(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(forge("show", *arguments, "--json"))
    return found


def test_show_has_the_metrics_of_the_step_not_of_the_end(run: RunDirectory) -> None:
    rows = training_rows(6, log_every=1, eval_every=2)
    found = shown("run-1@2")
    assert found["metrics"]["train/loss"] == rows[1]["train/loss"]
    assert found["metrics"]["val/loss"] == rows[1]["val/loss"]
    assert found["metrics"]["lr"] == rows[1]["lr"]
    assert found["loss"]["last_step"] == 2
    assert found["progress"]["step"] == 2
    assert found["provenance"]["recipe_hash"] == "0" * 64
    assert found["files"]["model.safetensors"] > 0
    assert found["trend"]["direction"] == "unknown"


def test_show_of_a_run_is_its_best(run: RunDirectory) -> None:
    assert shown("run-1")["progress"]["step"] == 1
    assert forge("show", "run-1").startswith("run-1  step 1  best\n")


def test_show_reads_tensors_where_they_are_asked_for(run: RunDirectory) -> None:
    assert "tensors" not in shown("run-1@3")
    weights = load_file(run.checkpoints / "step-00000003" / "model.safetensors")
    found = {item["name"]: item for item in shown("run-1@3", "--tensors")["tensors"]}
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert found[name]["norm"] == pytest.approx(float(tensor.double().norm()))
    assert "all values are finite" in forge("show", "run-1@3", "--tensors")


def test_values_that_are_not_finite_are_said(run: RunDirectory) -> None:
    path = run.checkpoints / "step-00000003" / "model.safetensors"
    weights = load_file(path)
    weights["norm.weight"][:5] = torch.nan
    save_file(weights, path)
    found = shown(str(path.parent), "--tensors")
    assert [item["nonfinite"] for item in found["tensors"] if item["nonfinite"]] == [5]
    text = forge("show", str(path.parent), "--tensors")
    assert "5 values of 1 tensors are not finite" in text
    assert "model.safetensors has" in text  # its size is another one


def test_show_takes_a_checkpoint_that_is_all_there_is_left(
    run: RunDirectory, tmp_path: Path
) -> None:
    shutil.copytree(run.checkpoints / "step-00000002", tmp_path / "alone")
    found = shown(str(tmp_path / "alone"))
    assert found["progress"]["total_steps"] is None
    assert found["info"]["problem"] == ""
    assert forge("plot", str(tmp_path / "alone")) == ""


def test_show_and_compare_read_slices_as_the_whole(run: RunDirectory) -> None:
    before = shown("run-1@3", "--tensors")
    slice_up(run.checkpoints / "step-00000003", 3)
    after = shown("run-1@3", "--tensors")
    for one, other in zip(before["tensors"], after["tensors"], strict=True):
        assert (one["name"], one["shape"]) == (other["name"], other["shape"])
        assert one["norm"] == pytest.approx(other["norm"])
    assert after["weights"]["files"] == 3
    assert compared("run-1@2", "run-1@3")["distances"][0]["total"]["relative"] > 0


def compared(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(forge("compare", *arguments, "--json"))
    return found


def test_compare_puts_what_moved_most_first(run: RunDirectory) -> None:
    found = compared("run-1@1", "run-1@2", "run-1@3")
    assert found["metrics"]["step"] == [1, 2, 3]
    assert found["recipe"] == {}
    assert len(found["distances"]) == 2
    moved = [item["relative"] for item in found["distances"][0]["layers"]]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 1
    text = forge("compare", "run-1@1", "run-1@2", "run-1@3")
    assert "the recipes are the same" in text
    assert "Weights: step 3 against step 1" in text


def test_a_checkpoint_is_at_no_distance_from_itself(run: RunDirectory) -> None:
    (distances,) = compared("run-1@2", "run-1@2")["distances"]
    assert distances["total"]["relative"] == 0
    assert distances["total"]["cosine"] == pytest.approx(1)


def test_compare_says_what_is_not_in_both(run: RunDirectory, tmp_path: Path) -> None:
    other = make_trained_run(tmp_path / "runs", "other", steps=1, recipe=RECIPE + EVAL)
    path = other.checkpoints / "step-00000001" / "model.safetensors"
    weights = load_file(path)
    weights["head.weight"] = torch.ones(3)
    del weights["norm.weight"]
    save_file(weights, path)
    text = forge("compare", "run-1@1", str(path.parent))
    assert "the architectures differ; not compared:" in text
    assert "1 tensors only in run-1@1: norm.weight" in text
    assert "1 tensors only in other@1: head.weight" in text
    assert "eval.every" in text
    assert {
        item["name"] for item in compared("run-1@1", str(path.parent))["distances"][0]["layers"]
    }


def test_compare_needs_two(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="two checkpoints are needed"):
        forge("compare", "run-1@1")


def test_a_damaged_checkpoint_is_refused_with_the_others(run: RunDirectory) -> None:
    (run.checkpoints / "step-00000002" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing") as caught:
        forge("show", "run-1@2")
    assert caught.value.remedy == "steps there: 1, 3"
    (run.checkpoints / "step-00000001" / "manifest.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        forge("show", "run-1@2")
    assert caught.value.remedy == "steps there: 3"
    (run.checkpoints / "step-00000003" / "trainer.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        forge("show", "run-1@2")
    assert caught.value.remedy == "all others are damaged, too"


def test_an_address_without_a_run_is_refused(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="@best names no run"):
        forge("show", "@best")


def test_plot_draws_plain_text_where_nobody_watches(run: RunDirectory) -> None:
    text = forge("plot", "run-1")
    assert text.startswith("Loss  run-1\n")
    assert "Learning rate  run-1" in text
    assert "× val/loss" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert forge("plot", "run-1@3").startswith("Loss  run-1 up to step 3\n")
    assert forge("plot", "run-1", "--metric", "grad_norm").startswith("grad_norm  run-1\n")


@pytest.mark.parametrize(
    ("name", "head"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")]
)
def test_plot_saves_a_picture(run: RunDirectory, tmp_path: Path, name: str, head: bytes) -> None:
    path = tmp_path / "new" / name
    assert forge("plot", "run-1", "--save", str(path)) == f"{path}\n"
    assert path.read_bytes().startswith(head)


def test_a_picture_of_one_metric_is_the_same_every_time(run: RunDirectory, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        forge("plot", "run-1", "--metric", "grad_norm", "--save", str(tmp_path / name))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_plot_names_what_there_is(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no metric 'val/los'") as caught:
        forge("plot", "run-1", "--metric", "val/los")
    assert caught.value.remedy == "did you mean 'val/loss'?"
    with pytest.raises(UsageError, match="is no name of a picture"):
        forge("plot", "run-1", "--save", str(tmp_path / "a.txt"))
    assert not list(tmp_path.glob("a.*"))


def test_nothing_but_tensors_imports_torch(run: RunDirectory) -> None:
    code = (
        "import sys; from llmforge.cli.checkpoints import app\n"
        "for name in ('list', 'show', 'plot', 'verify'):\n"
        "    app([name, 'run-1'], standalone_mode=False)\n"
        "sys.exit(sorted({'torch', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (0, "")
