"""``forge runs``: what it prints, finds, compares and clears."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from checkpoint_drafts import save
from rich.console import Console
from run_parts import KEYS, complete, make_run, training_rows, write_rows
from typer.testing import CliRunner, Result

from llmforge.cli.run_commands.row_views import SHOWN, print_rows
from llmforge.cli.runs import app
from llmforge.errors import ForgeError, RunError, RunLockedError, UsageError
from llmforge.insight.runs_index import runs_table
from llmforge.insight.summary import parse_since
from llmforge.rundir import RunLock

Forge = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of all runs, found through the environment."""
    monkeypatch.setenv("FORGE_RUN_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def forge(root: Path) -> Forge:
    """Runs ``forge runs`` and returns its result; a user's error is raised."""

    def run(*arguments: str, **options: Any) -> Result:
        result = CliRunner().invoke(app, list(arguments), **options)
        if isinstance(result.exception, ForgeError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return run


def listed(result: Result) -> list[str]:
    return [line.split()[0] for line in result.stdout.splitlines()[1:]]


# list ----------------------------------------------------------------------------------------


def test_the_newest_run_comes_first(root: Path, forge: Forge) -> None:
    for run_id, started in (("old", 1e9), ("new", 1.7e9), ("older", 9e8)):
        make_run(root, run_id, started=started)
    assert listed(forge("list")) == ["new", "old", "older"]
    assert listed(forge("list", "--reverse")) == ["older", "old", "new"]
    assert listed(forge("list", "--limit", "1")) == ["new"]


def test_a_row_has_state_progress_loss_perplexity_date_and_duration(
    root: Path, forge: Forge
) -> None:
    started = datetime(2026, 11, 1, 10, 22).timestamp()
    make_run(root, "x", started=started, step=550)
    header, row = forge("list").stdout.splitlines()
    columns = ["run", "state", "step", "loss", "perplexity", "started", "took"]
    assert header.split() == columns
    assert row.split() == [
        *("x", "completed", "550/600", "3.4000", "29.96", "2026-11-01", "10:22", "4m", "00s")
    ]


def test_runs_are_chosen_by_state_tag_and_age(root: Path, forge: Forge) -> None:
    make_run(root, "a", tags=["wiki", "best"], started=time.time() - 3600)
    make_run(root, "b", tags=["wiki"], started=time.time() - 5 * 86400, state="failed")
    make_run(root, "c", started=time.time() - 3 * 86400, state="interrupted")
    assert listed(forge("list", "--tag", "wiki")) == ["a", "b"]
    assert listed(forge("list", "--tag", "wiki", "--tag", "best")) == ["a"]
    assert listed(forge("list", "--state", "failed", "--state", "interrupted")) == ["c", "b"]
    assert listed(forge("list", "--since", "4d")) == ["a", "c"]
    assert forge("list", "--since", "1m").stdout.startswith("no such runs")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("id", ["a", "b", "c"]),
        ("state", ["b", "a", "c"]),
        ("step", ["c", "b", "a"]),
        ("loss", ["b", "a", "c"]),
        ("val/loss", ["a", "b", "c"]),
    ],
)
def test_runs_are_sorted_by_any_column_or_metric(
    root: Path, forge: Forge, key: str, expected: list[str]
) -> None:
    def metrics(last: float, best: float) -> dict[str, Any]:
        return {"val/loss": last, "best": {"metric": "val/loss", "value": best, "step": 1}}

    make_run(root, "a", step=1, state="interrupted", metrics=metrics(2.0, 1.9))
    make_run(root, "b", step=2, state="completed", metrics=metrics(3.0, 1.5))
    make_run(root, "c", step=3, state="failed", metrics={})
    assert listed(forge("list", "--sort", key)) == expected
    if key == "loss":
        assert listed(forge("list", "--sort", key, "--reverse")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sort", "val/lost"], "no run has a metric 'val/lost'"),
        (["--state", "done"], "unknown state 'done'"),
        (["--since", "yesterday"], "neither an age nor a date"),
    ],
)
def test_a_wrong_choice_is_a_usage_error(
    root: Path, forge: Forge, arguments: list[str], says: str
) -> None:
    make_run(root, "x")
    with pytest.raises(UsageError, match=says) as caught:
        forge("list", *arguments)
    assert caught.value.remedy


def test_ages_and_dates_are_understood() -> None:
    assert parse_since("2d", now=1e6) == 1e6 - 2 * 86400
    assert parse_since("90m", now=1e6) == 1e6 - 5400
    assert parse_since("2026-11-01") == datetime(2026, 11, 1).timestamp()


def test_json_holds_the_whole_list_even_when_a_metric_is_nan(root: Path, forge: Forge) -> None:
    make_run(root, "x", metrics={"train/loss": float("nan"), "val/loss": 2.0})
    make_run(root, "y")
    rows = json.loads(forge("list", "--json", "--sort", "id").stdout, parse_constant=pytest.fail)
    assert [row["id"] for row in rows] == ["x", "y"]
    assert rows[0]["metrics"]["train/loss"] == "nan"
    assert rows[0]["best_loss"] == 2.0
    assert datetime.fromisoformat(rows[0]["started"]).tzinfo is not None


def test_the_list_of_default_ids_fits_100_columns(root: Path) -> None:
    started = time.time() - 30 * 86400
    wide = {"total_steps": 100_000, "started": started, "ended": started + 80_000}
    make_run(root, "single_bs16_cw128_lr1e-03-a1b2c3", state="early-stopped", step=99_999, **wide)
    make_run(root, "tune_8_32_5e-04-a1b2c3", **wide)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    print_rows(console, runs_table(root, columns=SHOWN))
    lines = screen.getvalue().splitlines()
    assert len(lines) == 3, "a row was broken over two lines"
    assert "single_bs16_cw128_lr1e-03-a1b2c3  early-stopped  99999/100k" in lines[1]
    assert "…" not in screen.getvalue()


@pytest.mark.parametrize("chosen", [True, False])
def test_the_id_stays_on_a_narrow_terminal(chosen: bool, root: Path) -> None:
    make_run(root, "single_bs16_cw128_lr1e-03-a1b2c3")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60, color_system=None)
    print_rows(console, runs_table(root, columns=SHOWN), chosen=chosen)
    assert "single_b" in screen.getvalue()
    left_out = "too narrow for started, took"
    assert (left_out in screen.getvalue()) is not chosen
    if not chosen:
        assert "3.4000" in screen.getvalue()
        assert "single_bs16_cw128_lr  " in screen.getvalue()


def test_a_long_note_does_not_fill_the_terminal(root: Path, forge: Forge) -> None:
    make_run(root, "x")
    forge("note", "x", "word " * 400)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    print_rows(console, runs_table(root, columns=["id", "note"]))
    assert len(screen.getvalue().splitlines()) < 5
    assert "word " * 400 in forge("list", "--columns", "id,note", "--csv").stdout


def test_names_of_columns_are_json_when_asked_for(root: Path, forge: Forge) -> None:
    make_run(root, "x")
    names = json.loads(forge("list", "--columns", "help", "--json").stdout)
    assert "id" in names["of every run"]
    assert "val/loss" in names["metrics"]


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--json", "--csv"), "give one of them"), (("--sort", "-val/loss"), "val/loss --reverse")],
)
def test_what_a_list_cannot_be_is_refused_with_a_remedy(
    options: tuple[str, ...], says: str, root: Path, forge: Forge
) -> None:
    make_run(root, "x")
    with pytest.raises(UsageError, match=says):
        forge("list", *options)


def test_piped_text_is_never_cut(root: Path, forge: Forge) -> None:
    run_id = "a-very-long-name-" * 7
    make_run(root, run_id)
    assert listed(forge("list", env={"COLUMNS": "40"})) == [run_id]


def test_an_empty_root_says_so(root: Path, forge: Forge) -> None:
    assert forge("list").stdout.strip() == f"no runs in {root}"
    assert forge("status").stdout.strip() == "no runs"


def test_the_root_option_wins_over_the_environment(root: Path, forge: Forge) -> None:
    make_run(root, "here")
    make_run(root / "other", "there")
    assert listed(forge("list", "--root", str(root / "other"))) == ["there"]


def test_a_dotenv_file_names_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORGE_RUN_ROOT", raising=False)
    (tmp_path / ".env").write_text("FORGE_RUN_ROOT=elsewhere\n")
    make_run(tmp_path / "elsewhere", "x")
    assert listed(CliRunner().invoke(app, ["list"])) == ["x"]


# show and status -----------------------------------------------------------------------------


def test_show_tells_everything_of_a_run(root: Path, forge: Forge) -> None:
    directory = make_run(
        root,
        "x",
        profile="test",
        tags=["wiki"],
        restarts=2,
        notices=["training on the bundled sample"],
        fingerprints={"data": "f00d"},
        resolved={"precision": "bf16", "reasons": ["the CPU multiplies bf16 natively"]},
        provenance={"host": "h1", "git": {"commit": "c0ffee", "changed": {"a.py": "00"}}},
    )
    complete(directory, artifacts={"plots": "/somewhere/plots"})
    directory.recipe.write_text('[tracker]\nnames = ["tensorboard"]\n')
    (directory.trackers / "tensorboard").mkdir(parents=True)
    text = " ".join(forge("show", "x").stdout.split())
    for expected in (
        "x completed",
        "1, started 2 times",
        "optimizer.adamw.lr 0.001",
        "precision bf16",
        "the CPU multiplies bf16 natively",
        "data f00d",
        "c0ffee, changed: a.py",
        "training on the bundled sample",
        "best val/loss 3.4000 at step 500",
        f"tensorboard --logdir {directory.trackers / 'tensorboard'}",
        "plots /somewhere/plots",
        "next forge generate x",
        str(directory.recipe),
    ):
        assert expected in text


def test_show_checks_checkpoints_quickly(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x")
    save(directory.checkpoints, 100, best=True)
    save(directory.checkpoints, 200, 300)
    (directory.checkpoints / "step-00000300" / "trainer.json").unlink()
    rows = json.loads(forge("show", "x", "--json").stdout)["checkpoints"]
    found = [(row["step"], row["is_best"], row["is_last"], row["problem"]) for row in rows]
    assert found == [
        (100, True, False, ""),
        (200, False, True, ""),
        (300, False, False, "trainer.json is missing"),
    ]
    text = forge("show", "x").stdout
    assert "trainer.json is missing" in text
    assert rows[0]["size"] > 1024


def test_a_completed_run_whose_directory_is_gone_is_shown(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x")
    complete(directory, reason="all 600 steps taken")
    shutil.rmtree(directory.path)
    text = forge("show", "x").stdout
    assert "(gone)" in text
    assert "all 600 steps taken" in text
    assert listed(forge("list")) == ["x"]


def test_an_unreadable_run_is_shown_with_its_problem(root: Path, forge: Forge) -> None:
    make_run(root, "x").record.write_text("{")
    assert "cannot be read" in forge("show", "x").stdout
    assert "forge runs clear x" in forge("status", "x").stdout


def test_status_finds_a_run_by_the_id_without_its_hash(root: Path, forge: Forge) -> None:
    make_run(root, "single_bs4_cw16_lr1e-03-a1b2c3")
    text = forge("status", "single_bs4_cw16_lr1e-03").stdout
    assert text.startswith("single_bs4_cw16_lr1e-03-a1b2c3  completed")
    assert "600 of 600 steps, 100%" in text


def test_status_of_a_running_run_has_heartbeat_speed_and_time_left(
    root: Path, forge: Forge
) -> None:
    beat = {"time": time.time() - 20, "host": "node7", "boot_id": "", "pid": 77}
    directory = make_run(root, "x", state="running", step=150, exit_reason="", heartbeat=beat)
    write_rows(directory.timing, [{"step": 150, "tokens_per_second": 10400.4, "eta_seconds": 65}])
    write_rows(directory.metrics, training_rows(150))
    text = " ".join(forge("status", "x").stdout.split())
    for expected in (
        "150 of 600 steps, 25%",
        "s ago, process 77 on node7",
        "10,400 tokens/s",
        "1m 05s",
        "epoch 0.75",
    ):
        assert expected in text
    assert "next" not in text


def test_status_tells_how_to_continue_an_interrupted_run(root: Path, forge: Forge) -> None:
    command = ["/venv/bin/forge", "train", "wikitext_tiny", "--set", "run.notes=a b"]
    make_run(
        root,
        "x",
        state="interrupted",
        exit_reason="stopped by SIGTERM",
        provenance={"command": command, "directory": str(Path.cwd())},
    )
    text = forge("status", "x").stdout
    assert "stopped by SIGTERM" in text
    assert "next      forge train wikitext_tiny --set 'run.notes=a b'" in text


@pytest.mark.parametrize(
    "command", [[], ["notebook.py"], ["/bin/forge", "train", "r", "--set", "x.token=***"]]
)
def test_a_command_that_cannot_be_repeated_becomes_the_stored_recipe(
    root: Path, forge: Forge, command: list[str]
) -> None:
    directory = make_run(root, "x", state="failed", provenance={"command": command})
    assert json.loads(forge("status", "x", "--json").stdout)["next_command"] == (
        f"forge train {directory.recipe}"
    )


def test_status_without_a_run_lists_the_unfinished_and_counts_all(root: Path, forge: Forge) -> None:
    make_run(root, "done")
    make_run(root, "dead", state="running", exit_reason="")
    make_run(root, "failed", state="failed", exit_reason="loss is nan")
    text = forge("status").stdout
    assert "dead" in text
    assert "its process is gone" in text
    assert "loss is nan" in text
    assert "done" not in text
    assert text.splitlines()[-1] == "3 runs: 1 completed, 1 crashed, 1 failed"
    counts = json.loads(forge("status", "--json").stdout)["counts"]
    assert counts == {"completed": 1, "crashed": 1, "failed": 1}


# clear ---------------------------------------------------------------------------------------


def test_clear_without_a_terminal_needs_a_yes(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x")
    with pytest.raises(UsageError, match="no terminal to ask on") as caught:
        forge("clear", "x")
    assert caught.value.remedy == "forge runs clear x --yes"
    assert directory.record.exists()


def test_clear_moves_the_run_aside_and_says_where(root: Path, forge: Forge) -> None:
    complete(make_run(root, "wikitext-a1"))
    text = forge("clear", "wikitext", "--yes").stdout
    aside = root / ".archive" / "wikitext-a1.attempt-1"
    assert str(aside) in text
    assert "starts fresh" in text
    assert (aside / "run.json").exists()
    assert listed(forge("list", "--archived")) == ["wikitext-a1.attempt-1"]
    with pytest.raises(UsageError, match="cleared already"):
        forge("clear", "wikitext-a1.attempt-1", "--yes")


def test_clear_as_json_needs_a_yes_and_says_where(root: Path, forge: Forge) -> None:
    make_run(root, "x")
    with pytest.raises(UsageError, match="needs a yes"):
        forge("clear", "x", "--json")
    assert json.loads(forge("clear", "x", "--json", "--yes").stdout) == {
        "id": "x",
        "state": "completed",
        "directory": str(root / ".archive" / "x.attempt-1"),
    }


@pytest.mark.parametrize(("answer", "cleared"), [("y\n", True), ("n\n", False)])
def test_clear_asks_on_a_terminal(
    root: Path, monkeypatch: pytest.MonkeyPatch, answer: str, cleared: bool
) -> None:
    monkeypatch.setattr("llmforge.cli.run_commands.removing.interactive", lambda: True)
    directory = make_run(root, "x")
    result = CliRunner().invoke(app, ["clear", "x"], input=answer)
    assert "Set run x (completed) aside?" in result.output
    assert directory.path.exists() is not cleared
    assert result.exit_code == (0 if cleared else 1)


def test_a_run_being_trained_is_not_cleared(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x", state="running")
    with RunLock(root, "x"), pytest.raises(RunLockedError) as caught:
        forge("clear", "x", "--yes")
    assert caught.value.exit_code == 3
    assert directory.record.exists()


def test_clear_takes_what_is_left_of_a_run(root: Path, forge: Forge) -> None:
    gone = make_run(root, "gone")
    complete(gone)
    shutil.rmtree(gone.path)
    make_run(root, "broken").record.write_text("{")
    no_record = make_run(root, "no-record")
    save(no_record.checkpoints, 1)
    no_record.record.unlink()
    for run_id in ("gone", "broken", "no-record"):
        forge("clear", run_id, "--yes")
    names = {path.name for path in (root / ".archive").iterdir()}
    assert names == {"gone.attempt-1", "broken.attempt-1", "no-record.attempt-1"}


# diff, metrics, path -------------------------------------------------------------------------


def test_diff_shows_differing_keys_and_all_results(root: Path, forge: Forge) -> None:
    same = {"device": "cpu", "reasons": ["why"]}
    left = make_run(
        root, "left", resolved={**same, "precision": "bf16", "matmul_speed": {"fp32": 90.1}}
    )
    right = make_run(
        root,
        "right",
        resolved={**same, "precision": "fp32", "matmul_speed": {"fp32": 91.7}},
        metrics={},
    )
    left.recipe.write_text(
        "[train]\nbatch_size = 4\nmax_steps = 600\n[optimizer.adamw]\nlr = 0.1\n"
    )
    right.recipe.write_text("[train]\nbatch_size = 8\nmax_steps = 600\n")
    found = json.loads(forge("diff", "left", "right", "--json").stdout)
    assert found["recipe"] == [
        {"name": "train.batch_size", "left": 4, "right": 8},
        {"name": "optimizer.adamw.lr", "left": 0.1, "right": None},
    ]
    assert found["resolved"] == [{"name": "precision", "left": "bf16", "right": "fp32"}]
    lines = [line.split() for line in forge("diff", "left", "right").stdout.splitlines()]
    assert lines[0] == ["recipe", "left", "right"]
    assert ["train.batch_size", "4", "8"] in lines
    assert ["best", "val/loss", "3.4000", "-"] in lines
    assert not any("max_steps" in line[0] for line in lines if line)


def test_diff_without_recipes_compares_identities(root: Path, forge: Forge) -> None:
    make_run(root, "left")
    keys = {**KEYS, "train.batch_size": 8}
    make_run(root, "right", identity={"hash": "0", "keys": keys})
    found = json.loads(forge("diff", "left", "right", "--json").stdout)["recipe"]
    assert found == [{"name": "train.batch_size", "left": 4, "right": 8}]


def test_diff_of_equal_recipes_says_so(root: Path, forge: Forge) -> None:
    make_run(root, "left")
    make_run(root, "right")
    assert forge("diff", "left", "right").stdout.startswith("the recipes are the same")


def test_metrics_per_step_are_the_rows(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x")
    rows = training_rows(300)
    write_rows(directory.metrics, rows)
    with directory.metrics.open("a") as file:
        file.write('{"step": 310, "train/')  # being written this instant
    assert json.loads(forge("metrics", "x", "--json").stdout) == rows
    parsed = list(csv.DictReader(io.StringIO(forge("metrics", "x", "--csv").stdout)))
    assert [int(row["step"]) for row in parsed] == [row["step"] for row in rows]
    assert float(parsed[9]["val/loss"]) == rows[9]["val/loss"]
    assert parsed[0]["val/loss"] == ""


def test_metrics_per_epoch_are_the_last_values_of_each(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x")
    rows = training_rows(500, eval_every=150, per_epoch=200)
    write_rows(directory.metrics, rows)
    found = json.loads(forge("metrics", "x", "--per", "epoch", "--json").stdout)
    by_step = {row["step"]: row for row in rows}
    assert [row["step"] for row in found] == [200, 400, 500]
    assert found[0]["train/loss_epoch"] == by_step[200]["train/loss_epoch"]
    assert found[0]["val/loss"] == by_step[150]["val/loss"]
    assert "train/loss_epoch" not in found[2]


def test_damaged_metrics_are_an_error_with_the_file(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x")
    directory.metrics.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl has a damaged row: line 2: "):
        forge("metrics", "x")


def test_path_prints_the_directory_and_nothing_else(root: Path, forge: Forge) -> None:
    directory = make_run(root, "wikitext-a1")
    assert forge("path", "wikitext").stdout == f"{directory.path}\n"


# Weight --------------------------------------------------------------------------------------

LIGHT = """
import sys
from typer.testing import CliRunner
from llmforge.cli.runs import app
for arguments in (["list"], ["show", "x"], ["status"], ["status", "x"], ["diff", "x", "y"],
                  ["metrics", "x"], ["path", "x"], ["clear", "y", "--yes"]):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (arguments, result.output, result.exception)
print(*[name for name in ("torch", "matplotlib", "numpy") if name in sys.modules])
"""


def test_no_command_imports_torch_numpy_or_matplotlib(root: Path) -> None:
    for run_id in ("x", "y"):
        directory = make_run(root, run_id)
        directory.recipe.write_text('[tracker]\nnames = ["tensorboard"]\n')
        write_rows(directory.metrics, training_rows(20))
        save(directory.checkpoints, 10)
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
