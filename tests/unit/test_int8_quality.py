"""What int8 costs is measured once, told every time, and never stops a model from being used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from generate_parts import make_model, make_trained_run
from typer.testing import CliRunner

from llmforge.cli import evaluate as command
from llmforge.cli import generate as generate_command
from llmforge.generation import LoadedModel, generate_texts, open_checkpoint
from llmforge.int8_quality import QualityLoss, describe_int8, measure_quality
from llmforge.interfaces import Continuation, ContinuationUpdate
from llmforge.rundir import RunDirectory
from llmforge.serve.limits import Limits
from llmforge.serve.served_model import served_model

TEXT = "the quick brown fox jumps over the lazy dog, again and again\n" * 40

app = typer.Typer()
app.command("evaluate")(command.evaluate)
app.command("generate")(generate_command.generate)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORGE_RUN_ROOT", raising=False)
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    Path("nowhere.txt").write_text(TEXT, encoding="utf-8")
    return make_trained_run(tmp_path / "runs", "run-1")


def opened(run: RunDirectory, address: str = "run-1", **options: Any) -> LoadedModel:
    return open_checkpoint(address, root=run.root, device="cpu", dtype="int8", **options)


def noted(loaded: LoadedModel, **options: Any) -> list[str]:
    lines: list[str] = []
    describe_int8(loaded, note=lines.append, **options)
    return lines


def forge(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--device", "cpu"], catch_exceptions=False)
    assert done.exit_code == 0
    return done


def test_it_is_measured_once_for_a_checkpoint_and_told_each_time(run: RunDirectory) -> None:
    memory, quality = noted(opened(run))
    assert "9 linear layers" in memory
    (row,) = json.loads(run.int8.read_text())
    assert row["metric"] == "bits per byte"
    assert row["before"] > 0
    assert quality == f"int8: {QualityLoss(**_fields(row))} of validation data"
    run.int8.write_text(json.dumps([{**row, "before": 2.0, "after": 2.01}]))
    assert "2.0000 → 2.0100 bits per byte (+0.50 %)" in noted(opened(run))[1]


def test_another_checkpoint_is_measured_for_itself(run: RunDirectory) -> None:
    noted(opened(run, "run-1@1"))
    noted(opened(run, "run-1@2"))
    assert [row["step"] for row in json.loads(run.int8.read_text())] == [1, 2]
    rows = json.loads(run.int8.read_text())
    run.int8.write_text(json.dumps([{**rows[0], "created": "an earlier run", "after": 99.0}]))
    assert "99.0" not in noted(opened(run, "run-1@1"))[1]


def test_a_damaged_file_is_left_alone_and_costs_a_measurement(run: RunDirectory) -> None:
    run.int8.write_text("{")
    assert "bits per byte" in noted(opened(run))[1]
    assert run.int8.read_text() == "{"


def test_without_its_data_the_model_is_used_all_the_same(run: RunDirectory) -> None:
    Path("nowhere.txt").unlink()
    line = noted(opened(run))[1]
    assert line.startswith("int8: not compared with fp32: ")
    assert "nowhere.txt" in line
    assert not run.int8.exists()
    assert forge("generate", "run-1", "--dtype", "int8", "--prompt", "a").stdout


def test_other_weights_are_compared_and_not_taken_for_the_runs(
    run: RunDirectory, tmp_path: Path
) -> None:
    torch.save(dict(make_model(2).named_parameters()), tmp_path / "weights.pt")
    other = noted(opened(run, "run-1@1", weights=tmp_path / "weights.pt"))
    assert not run.int8.exists()
    assert other[1] == noted(opened(run, "run-1@2"))[1]


def test_rows_and_seconds_are_bounds(run: RunDirectory) -> None:
    loaded = opened(run)
    found = measure_quality(loaded, notice=lambda _: None)
    assert 1 < found.rows < 64  # all there are
    assert measure_quality(loaded, notice=lambda _: None, rows=1).rows == 1
    assert found.after == pytest.approx(found.before, rel=0.02)


def test_nothing_is_measured_where_it_must_not_be(run: RunDirectory) -> None:
    assert len(noted(opened(run), measure=False)) == 1
    assert noted(open_checkpoint("run-1", root=run.root, device="cpu")) == []


def test_evaluate_shows_both_and_saves_that_of_fp32(run: RunDirectory) -> None:
    plain = json.loads(forge("evaluate", "run-1", "--json").stdout)
    output = forge("evaluate", "run-1", "--dtype", "int8").stdout
    for name in ("val/loss", "val/bits_per_byte"):
        assert f"fp32 {plain[name]:.4f} (" in output
    (kept,) = json.loads(run.evaluation.read_text())
    assert (kept["dtype"], kept["val/loss"]) == ("fp32", plain["val/loss"])
    both = json.loads(forge("evaluate", "run-1", "--dtype", "int8", "--json").stdout)
    assert both["fp32"]["val/loss"] == plain["val/loss"]
    assert both["dtype"] == "int8"
    assert both["val/loss"] != plain["val/loss"]
    (row,) = json.loads(run.int8.read_text())
    assert (row["rows"], row["before"]) == (plain["rows"], plain["val/bits_per_byte"])


def test_generate_says_what_int8_changed_beside_the_text(run: RunDirectory) -> None:
    done = forge("generate", "run-1", "--dtype", "int8", "--prompt", "the", "--no-stream")
    assert "run-1 at step 1, cpu, int8" in done.stderr
    assert "9 linear layers" in done.stderr
    assert "bits per byte" in done.stderr
    assert "int8" not in done.stdout


def test_what_is_served_together_is_what_generate_writes_alone(run: RunDirectory) -> None:
    loaded = opened(run)
    model = served_model(
        loaded, loaded.recipe.selected("generation"), limits=Limits(), note=lambda _: None
    )
    assert model.continuous
    prompts = ["the quick", "a", "again and again, the lazy dog", "fox"]
    texts = dict.fromkeys(range(len(prompts)), "")

    def report(update: ContinuationUpdate) -> None:
        texts[update.key] += update.text

    options = loaded.recipe.selected("generation").options
    for key, prompt in enumerate(prompts):
        ids = loaded.tokenizer.encode(prompt)
        model.batch.add(
            Continuation(
                key=key,
                prompt=prompt,
                prompt_ids=ids,
                options=options,
                max_new_tokens=12,
                seed=3,
            )
        )
    while model.batch.busy:
        model.batch.step(report)
    alone = [
        item.text
        for prompt in prompts
        for item in generate_texts(loaded, [prompt], seed=3, max_new_tokens=12)
    ]
    assert list(texts.values()) == alone


def test_data_without_bytes_is_compared_by_loss() -> None:
    quality = QualityLoss(metric="loss", before=2.0, after=2.001, rows=1)
    assert str(quality) == "2.0000 → 2.0010 loss (+0.05 %) on 1 row"


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("metric", "before", "after", "rows")}
