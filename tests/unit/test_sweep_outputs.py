"""A sweep on disk: its id, what it leaves behind for people, and what the commands say of it."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import llmforge
from llmforge.cli.sweep import app
from llmforge.cli.sweep_views import live_table
from llmforge.errors import RecipeError, RunError
from llmforge.recipe import load_recipe
from llmforge.sweeps.outputs import write_outputs
from llmforge.sweeps.summary import summarize
from llmforge.sweeps.sweep import Sweep, find_sweep, load_sweep, open_sweep
from llmforge.sweeps.trials import Result

RECIPE = """\
extends = "wikitext_tiny"
[sweep]
name = "random"
max_trials = 8
seeds = 2
[sweep.random]
pruner = "median"
[sweep.space]
train.batch_size = {choice = [4, 8, 16]}
optimizer.adamw.lr = {log = [1e-4, 1e-2]}
model.transformer.width = {tied = "train.batch_size", times = 16}
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORGE_RUN_ROOT", raising=False)


def started(recipe: str = RECIPE, *overrides: str) -> Sweep:
    Path("s.toml").write_text(recipe, encoding="utf-8")
    return open_sweep("s.toml", overrides=overrides)


def filled() -> Sweep:
    """Return a sweep with trials of every kind."""
    sweep = started()
    ledger = sweep.ledger()
    for number in range(6):
        parameters = {
            "train.batch_size": (4, 8, 16)[number % 3],
            "optimizer.adamw.lr": 1e-4 * 2**number,
        }
        for repeat in range(2):
            entry = ledger.begin(number, repeat, 0, parameters)
            assert entry is not None
            ledger.set_run(entry, run_id=f"tune_{number}_{repeat}", identity="f00")
            ledger.report(entry, 10, 5.0)
            ledger.report(entry, 20, 4.0 - number / 10)
            value = 3.0 + (number - 3) ** 2 / 10 + repeat / 100
            ledger.finish(entry, Result(outcome="completed", value=value, seconds=2.0))
    pruned = ledger.begin(6, 0, 0, {"train.batch_size": 4, "optimizer.adamw.lr": 0.01})
    assert pruned is not None
    ledger.report(pruned, 10, 6.0)
    ledger.finish(pruned, Result(outcome="pruned", reason="number 7 of 7", seconds=1.0))
    failed = ledger.begin(7, 0, 0, {"train.batch_size": 16, "optimizer.adamw.lr": 0.01})
    assert failed is not None
    ledger.finish(failed, Result(outcome="failed", reason="<out of memory>", seconds=1.0))
    return sweep


def said(*arguments: str) -> str:
    """Return what ``forge sweep`` prints."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_another_space_or_budget_is_the_same_sweep_and_another_recipe_is_not() -> None:
    first = started()
    assert first.id.startswith("s-")
    assert started(RECIPE.replace("[4, 8, 16]", "[4, 8, 16, 32]")).id == first.id
    assert started(RECIPE, "sweep.max_trials=99", "sweep.seeds=1").id == first.id
    assert started(RECIPE, "train.max_steps=7").id != first.id
    assert started(RECIPE, 'sweep.metric="val/perplexity"').id != first.id


def test_a_sweep_of_something_else_under_the_same_id_is_refused() -> None:
    named = RECIPE.replace("[sweep]", '[sweep]\nid = "mine"')
    assert started(named).id == "mine"
    with pytest.raises(RunError, match=r"started with other sweep\.metric"):
        started(named, 'sweep.metric="val/perplexity"')
    with pytest.raises(RunError, match=r"started with other values outside \[sweep\]"):
        started(named, "train.max_steps=7")


def test_a_recipe_without_a_sweep_says_what_to_add() -> None:
    with pytest.raises(RecipeError, match=r"no \[sweep\] table"):
        started('extends = "wikitext_tiny"\n')


def test_a_sweep_is_read_back_with_its_overrides() -> None:
    first = started(RECIPE, "sweep.max_trials=99", "optimizer.muon.momentum=0.5")
    again = load_sweep(find_sweep(Path("runs"), "s-"))
    assert again.id == first.id
    assert again.space == first.space
    assert again.recipe.sweep.max_trials == 99
    point = {"train.batch_size": 4, "optimizer.adamw.lr": 1e-3}
    trial = again.trial(again.space.with_ties(point), repeat=1)
    assert trial.run.id is not None
    assert trial.run.id.startswith("tune_4_128_1e-03-")
    assert trial.run.seed == first.recipe.run.seed + 1


def test_the_best_is_the_point_with_the_best_mean_over_its_seeds() -> None:
    sweep = filled()
    summary = summarize(sweep.ledger().trials(), sweep.space, direction="minimize")
    assert summary.best is not None
    assert (summary.best.number, summary.best.value) == (3, pytest.approx(3.005))
    assert summary.spread == pytest.approx(0.01 / 2**0.5)
    assert summary.states == {"completed": 12, "pruned": 1, "failed": 1}
    highest = summarize(sweep.ledger().trials(), sweep.space, direction="maximize")
    assert highest.best is not None
    assert highest.best.number == 0


def test_the_best_recipe_trains_as_it_is_with_the_best_values_tied_ones_too() -> None:
    sweep = filled()
    write_outputs(sweep)
    best = load_recipe(sweep.directory.best)
    assert best.train.batch_size == 4
    assert best.learning_rate == pytest.approx(8e-4)
    assert best.tables["model"]["transformer"]["width"] == 64
    assert best.space is None
    assert "tune_3_0" in sweep.directory.best.read_text(encoding="utf-8")


def test_the_page_stands_alone_and_has_every_picture_and_trial() -> None:
    sweep = filled()
    write_outputs(sweep)
    pictures = sorted(path.name for path in sweep.directory.plots.iterdir())
    assert pictures == ["curves.png", "history.png", "importance.png", "parallel.png"]
    page = sweep.directory.report.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("<tr") == 1 + 14
    assert "&lt;out of memory&gt;" in page
    assert "<out of memory>" not in page


def test_a_sweep_that_has_only_begun_leaves_a_page_and_no_best() -> None:
    sweep = started()
    assert write_outputs(sweep) == []
    ledger = sweep.ledger()
    ledger.begin(0, 0, 0, {"train.batch_size": 4, "optimizer.adamw.lr": 1e-3})
    assert write_outputs(sweep) == [sweep.directory.report]
    assert not sweep.directory.best.exists()


def test_commands_tell_how_a_sweep_stands() -> None:
    sweep = filled()
    assert sweep.id in said("list")
    status = said("status", sweep.id)
    assert "12 completed, 1 failed, 1 pruned" in status
    assert "3.0050" in status
    assert "forge sweep resume" not in status  # all 8 points have ended
    shown = said("show", "s-")
    assert "number 7 of 7" in shown
    assert "tune_5_1" in shown
    answer: dict[str, Any] = json.loads(said("status", "s-", "--json"))
    assert answer["best"]["parameters"]["model.transformer.width"] == 64
    assert answer["states"]["pruned"] == 1


def test_the_live_table_shows_states_as_words_and_the_best_marked() -> None:
    sweep = filled()
    out = Console(width=160, markup=False, record=True, file=io.StringIO())
    out.print(live_table(sweep, sweep.ledger().trials(), rows=30))
    text = out.export_text()
    assert "[" not in text
    assert re.search(r"^3\.1 +completed .*3\.0100 \*", text, re.MULTILINE)
    assert re.search(r"^6 +pruned ", text, re.MULTILINE)


def test_a_sweep_that_is_done_returns_its_best_in_python() -> None:
    sweep = filled()
    found = llmforge.sweep("s.toml", overrides={"sweep.max_failures": 9})
    assert found.id == sweep.id
    assert found.reason == "all 8 trials are done"
    assert found.best is not None
    assert (found.best.run_id, found.best.value) == ("tune_3_0", pytest.approx(3.005))
    assert load_recipe(found.best.recipe).train.batch_size == 4
    assert len(found.trials) == 14


def test_trials_are_exported_as_a_table() -> None:
    filled()
    said("export", "s-", "-o", "t.csv")
    with Path("t.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    assert rows[-1]["reason"] == "<out of memory>"
    assert rows[0]["model.transformer.width"] == "64"
    assert "parameters" not in rows[0]
    said("export", "s-", "-o", "t.json")
    assert len(json.loads(Path("t.json").read_text(encoding="utf-8"))) == 14


def test_stopping_is_seen_by_every_worker() -> None:
    sweep = started()
    assert "forge sweep resume" in said("stop", sweep.id)
    assert sweep.ledger().stopped


def test_a_sweep_that_is_not_there_is_told_with_those_that_are() -> None:
    started()
    with pytest.raises(RunError, match="no sweep 'other'") as caught:
        find_sweep(Path("runs"), "other")
    assert "s-" in caught.value.remedy


def test_a_dry_run_checks_everything_and_begins_nothing_to_train() -> None:
    Path("s.toml").write_text(RECIPE, encoding="utf-8")
    told = said("s.toml", "--dry-run")
    assert "train.batch_size: 4, 8, 16" in told
    assert "0.0001 to 0.01 on a logarithmic scale" in told


def test_a_dry_run_finds_what_keeps_the_trials_from_training_here() -> None:
    Path("s.toml").write_text(RECIPE, encoding="utf-8")
    told = CliRunner().invoke(app, ["run", "s.toml", "--dry-run", "--device", "cuda:99"])
    assert isinstance(told.exception, RecipeError)
    assert "train.device: 'cuda:99' is not available" in str(told.exception)
