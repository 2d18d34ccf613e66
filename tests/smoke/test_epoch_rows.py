"""Epochs end at the step that takes their last sequence, and rows average what they say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from forge_process import RECIPE, Workplace

BY_EPOCH = {
    "eval.every": "1 epoch",
    "checkpoint.every": "0.5 epoch",
    "early_stopping.patience": "0",
    "train.log_every": "10",
    "generation.prompts": "[]",
}


def of_epochs(count: int) -> str:
    return RECIPE.replace("max_steps = 60", f"epochs = {count}")


def ends(rows: list[dict[str, float]], name: str) -> list[int]:
    return [int(row["step"]) for row in rows if name in row]


def test_a_run_of_epochs_has_a_row_for_each_and_ends_with_the_last(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", settings=BY_EPOCH, recipe=of_epochs(6), lines=150)
    workplace.train_here()
    rows = workplace.rows

    windows = rows[-1]["step"] * 8 / rows[-1]["epoch"]
    assert windows % 8 > 0.5  # an epoch is no whole number of steps here, or nothing is tested
    due = [math.ceil(k * round(windows) / 8) for k in range(1, 7)]
    assert due[-1] < 6 * due[0]  # where rounding up each epoch would have drifted to
    assert ends(rows, "train/loss_epoch") == due
    assert ends(rows, "val/loss") == due
    assert rows[-1]["step"] == due[-1]
    assert workplace.record["exit_reason"] == f"all {due[-1]} steps taken"


def test_the_loss_of_a_row_is_the_mean_of_the_last_logged_steps(tmp_path: Path) -> None:
    dense = Workplace(
        tmp_path / "dense",
        settings=BY_EPOCH | {"train.log_every": "1"},
        recipe=of_epochs(2),
        lines=150,
    )
    sparse = Workplace(tmp_path / "sparse", settings=BY_EPOCH, recipe=of_epochs(2), lines=150)
    dense.train_here()
    sparse.train_here()

    losses = [row["train/loss"] for row in dense.rows]
    assert len(losses) == dense.rows[-1]["step"]
    off_grid = 0
    for row in sparse.rows:
        last = losses[max(0, row["step"] - 10) : row["step"]]
        assert row["train/loss"] == pytest.approx(sum(last) / len(last), rel=1e-9)
        off_grid += row["step"] % 10 > 0
    assert off_grid >= 3  # rows of epochs and checkpoints between the logged steps
    first, second = ends(sparse.rows, "train/loss_epoch")
    by_step = {row["step"]: row for row in sparse.rows}
    for row, steps in ((by_step[first], losses[:first]), (by_step[second], losses[first:second])):
        assert row["train/loss_epoch"] == pytest.approx(sum(steps) / len(steps), rel=1e-9)
