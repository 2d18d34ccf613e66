"""``[export] at_end``: the folder beside the run, and a model that cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from export_parts import own_tables, train
from typer.testing import CliRunner

from llmforge.cli.app import app
from llmforge.errors import RecipeError
from llmforge.export import export_folder
from llmforge.generation import locate
from llmforge.recipe import identity, load_recipe


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def record(place: Path) -> dict[str, Any]:
    return json.loads((place / "runs" / "tiny" / "run.json").read_text(encoding="utf-8"))


def test_the_folder_is_that_of_forge_export_also_after_an_early_stop(tmp_path: Path) -> None:
    tables = own_tables(tmp_path, {}) | {
        "export": {"at_end": True, "dtype": "bf16"},
        "train": {"max_steps": 40, "batch_size": 4, "device": "cpu"},
        "eval": {"every": 1},
        "optimizer": {"name": "adamw", "adamw": {"lr": 3.0}},  # gets worse at once
        "early_stopping": {"patience": 2},
    }
    train(tmp_path, tables)
    assert record(tmp_path)["state"] == "early-stopped"
    run = tmp_path / "runs" / "tiny"
    export_folder(locate("tiny", root=tmp_path / "runs"), tmp_path / "out", dtype="bf16")
    assert content(run / "export") == content(tmp_path / "out")
    metrics = json.loads((run / "export" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["step"] == metrics["best"]["step"] < record(tmp_path)["step"]


def test_a_model_that_cannot_be_written_costs_no_run_and_is_named(tmp_path: Path) -> None:
    tables = own_tables(tmp_path, {"norm": "layernorm"}) | {"export": {"at_end": True}}
    train(tmp_path, tables)
    found = record(tmp_path)
    assert found["state"] == "completed"
    (notice,) = [text for text in found["notices"] if "export" in text]
    assert 'model.transformer.activation = "swiglu"' in notice
    assert "--format safetensors" in notice
    assert "later: forge export tiny --to" in notice
    assert not (tmp_path / "runs" / "tiny" / "export").exists()
    again = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.toml")])
    assert "already completed" in again.output
    assert "export it:      forge export tiny --to" in again.output


def test_it_is_not_part_of_the_identity_and_needs_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        '[model]\nname = "transformer"\n[data]\nname = "wikitext"\n[train]\nmax_steps = 2\n'
    )
    plain = load_recipe(tmp_path / "recipe.toml")
    assert "export" not in plain.tables
    changed = load_recipe(tmp_path / "recipe.toml", overrides=["export.at_end=true"])

    assert identity(plain).hash == identity(changed).hash
    off = ["export.at_end=true", "checkpoint.enabled=false"]
    with pytest.raises(RecipeError, match=r"export\.at_end: there is no checkpoint to export"):
        load_recipe(tmp_path / "recipe.toml", overrides=off)
    with pytest.raises(RecipeError, match="needs format"):
        load_recipe(tmp_path / "recipe.toml", overrides=['export.dtype="q8_0"'])
