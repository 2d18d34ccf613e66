"""Continuing, going further, going back; and what is refused instead of mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoint_slices import slice_up
from conftest import Reference
from forge_process import Workplace, stepping, write_text


def test_a_run_stopped_by_stop_at_goes_on_as_if_it_never_stopped(
    tmp_path: Path, halfway: Workplace, reference: Reference
) -> None:
    workplace = halfway.copy(tmp_path / "copy")
    assert workplace.record["state"] == "interrupted"
    assert "stop_at = 31" in workplace.record["exit_reason"]
    lowest = min((row["val/loss"], row["step"]) for row in workplace.rows if "val/loss" in row)
    best = workplace.record["metrics"]["best"]
    assert (best["metric"], best["value"], best["step"]) == ("val/loss", *lowest)

    workplace.train_here()

    assert workplace.record["state"] == "completed"
    assert workplace.result() == reference("fp32").result()


def test_a_run_goes_on_from_the_slices_of_several_ranks_to_the_same_bits(
    tmp_path: Path, halfway: Workplace, reference: Reference
) -> None:
    workplace = halfway.copy(tmp_path / "copy")
    slice_up(workplace.checkpoints[-1], 3)

    output = workplace.train_here()

    assert "resuming from step 31" in output
    assert workplace.result() == reference("fp32").result()


def test_a_completed_run_is_extended_and_the_extension_survives_a_kill(
    tmp_path: Path, reference: Reference
) -> None:
    straight = reference("fp32").copy(tmp_path / "straight")
    killed = reference("fp32").copy(tmp_path / "killed")

    straight.train_here("--extend", "75")
    process = killed.start("--extend", "75")
    assert process.wait_for(lambda _: any(c.name >= "step-00000066" for c in killed.checkpoints))
    process.kill()
    killed.train_here("--extend", "75")

    assert straight.rows[-1]["step"] == 75
    assert straight.rows[-1]["lr"] == straight.rows[-2]["lr"]
    assert straight.record["exit_reason"] == "all 75 steps taken"
    assert straight.rows[: len(reference("fp32").rows)] == reference("fp32").rows
    assert killed.result() == straight.result()
    assert "already completed" in killed.train_here()
    assert "already completed" in killed.train_here("--extend", "75")


def test_going_back_to_a_checkpoint_repeats_the_rest_and_sets_the_newer_ones_aside(
    tmp_path: Path, reference: Reference
) -> None:
    workplace = reference("fp32").copy(tmp_path / "copy")
    older, newest = workplace.checkpoints  # keep_last = 2, and the last is the best
    step = int(older.name.removeprefix("step-"))

    process = workplace.start("--resume", f"tiny@{step}")
    assert process.wait_for(stepping)
    process.kill()
    assert newest.with_name(f"{newest.name}.superseded-1").is_dir()
    output = workplace.train_here()  # killed before its end: the run is not done any more

    assert f"resuming from step {step}" in output
    assert workplace.result() == reference("fp32").result()


def test_another_recipe_under_the_same_id_is_refused_with_what_differs(
    tmp_path: Path, halfway: Workplace
) -> None:
    workplace = halfway.copy(tmp_path / "copy")
    before = workplace.record

    changes = ["--set", "optimizer.adamw.lr=0.001", "--set", "train.batch_size=4"]
    output = workplace.train_here(*changes, expect=1)

    assert "optimizer.adamw.lr: 0.003 in the run, the default now" in output
    assert "train.batch_size: 8 in the run, 4 now" in output
    assert "forge runs clear tiny" in output
    assert "Traceback" not in output
    assert workplace.record == before


def test_changed_data_is_refused_unless_allowed(tmp_path: Path, halfway: Workplace) -> None:
    workplace = halfway.copy(tmp_path / "copy")
    write_text(workplace.path / "train.txt", lines=400, seed=99)

    output = workplace.train_here(expect=1)
    assert "the data of this run changed" in output
    assert "--allow-data-change" in output
    assert "Traceback" not in output
    assert workplace.checkpoints[-1].name == "step-00000031"

    workplace.train_here("--allow-data-change", "--set", "train.stop_at=33")
    assert workplace.record["step"] == 33
    workplace.train_here("--set", "train.stop_at=34")  # asked once


@pytest.mark.parametrize("kill", [False, True])
def test_early_stopping_is_remembered_across_starts(tmp_path: Path, kill: bool) -> None:
    settings = {
        "optimizer.adamw.lr": "1e-9",
        "schedule.cosine.warmup": "0.0",
        "early_stopping.patience": "3",
        "early_stopping.min_delta": "0.01",
        "model.transformer.dropout": "0.0",
    }
    workplace = Workplace(tmp_path / "place", settings)
    if kill:
        process = workplace.start()
        assert process.wait_for(
            lambda _: any(c.name >= "step-00000012" for c in workplace.checkpoints)
        )
        process.kill()

    output = workplace.train_here()

    # Evaluations at 5 (the best), 10, 15 and 20.
    assert workplace.record["state"] == "early-stopped"
    assert workplace.record["step"] == 20
    assert "val/loss has not improved for 3 evaluations" in output
    assert workplace.checkpoints[-1].name == "step-00000020"
    assert "already completed" in workplace.train_here()


def test_a_run_that_begins_with_small_batches_of_short_windows_is_continued_among_them(
    tmp_path: Path,
) -> None:
    settings = {
        "train.max_steps": "12",
        "train.batch_warmup_steps": "9",
        "train.batch_warmup_from": "2",
        "train.context_warmup_steps": "10",
        "train.context_warmup_from": "8",
    }
    straight, stopped = (Workplace(tmp_path / name, settings) for name in ("straight", "stopped"))

    output = straight.train_here()
    stopped.train_here("--set", "train.stop_at=4")
    stopped.train_here()

    assert (
        "batches grow from 2 to 8 in 9 steps, windows grow from 8 to 32 tokens in 10 steps"
        in output
    )
    assert stopped.result() == straight.result()
    sequences = 5 * 2 + 4 * 4 + 3 * 8
    assert straight.rows[-1]["tokens_seen"] == sequences * 32
    assert [row["tokens_seen"] for row in straight.rows if row["step"] == 4] == [4 * 2 * 32]


def test_a_run_killed_while_it_finishes_has_its_final_metrics(trained: Workplace) -> None:
    before = json.loads(trained.run.summary.read_text(encoding="utf-8"))
    completion = trained.path / "runs" / ".completed" / "tiny.json"
    done = json.loads(completion.read_text(encoding="utf-8"))
    completion.unlink()
    trained.run.summary.unlink()
    # run.json is written every few seconds, and may be from before the first row
    record = {**trained.record, "state": "running", "step": 0, "metrics": {}}
    trained.run.record.write_text(json.dumps(record), encoding="utf-8")
    trained.train_here()
    assert json.loads(trained.run.summary.read_text(encoding="utf-8")) == before
    again = json.loads(completion.read_text(encoding="utf-8"))
    for name in ("final_loss", "best_loss", "best_step", "steps", "epochs", "reason"):
        assert again[name] == done[name]
