"""Epochs end where their last window is taken, however long a run is."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from llmforge.data.order import Epochs
from llmforge.ramp import Ramp
from llmforge.recipe.schema import check_interval, parse_interval


@pytest.mark.parametrize(
    ("n_windows", "batch_size"), [(902, 32), (10, 5), (10, 3), (3, 8), (1, 1), (1_000_003, 512)]
)
def test_an_epoch_ends_at_the_step_that_takes_its_last_window(
    n_windows: int, batch_size: int
) -> None:
    epochs = Epochs(n_windows=n_windows, batch_size=batch_size)
    last = epochs.end(12)
    expected = {math.ceil(count * n_windows / batch_size) for count in range(1, 13)}
    found = {step for step in range(1, last + 1) if epochs.ends(step)}
    assert found == expected
    assert last == max(expected)
    steps = range(1, last + 1)
    assert {step for step in steps if epochs.ends(step, every=3)} == {
        epochs.end(count) for count in (3, 6, 9, 12)
    }


def test_epochs_of_batches_that_grow_end_where_their_last_window_is_taken() -> None:
    epochs = Epochs(n_windows=10, batch_size=Ramp(8, begin=2, steps=4))  # 2, 2, 4, 4, 8, 8 …
    assert [epochs.end(count) for count in (0.2, 0.5, 1, 2, 3)] == [1, 3, 4, 5, 7]
    assert [step for step in range(1, 8) if epochs.ends(step)] == [4, 5, 7]


def test_the_ends_do_not_drift() -> None:
    epochs = Epochs(n_windows=902, batch_size=32)  # 28.19 steps
    assert [epochs.end(count) for count in (1, 2, 3, 6, 11, 1000)] == [29, 57, 85, 170, 311, 28188]
    assert epochs.steps_per_epoch == pytest.approx(28.19, abs=0.01)


def test_lengths_that_are_decimals_are_taken_as_written() -> None:
    epochs = Epochs(n_windows=1000, batch_size=10)
    assert epochs.end(0.3) == 30  # and not 31, as 0.1 + 0.2 would give
    assert epochs.end(0.1 + 0.2) == 31
    assert epochs.end(1e-07) == 1
    assert {step for step in range(1, 101) if epochs.ends(step, every=Fraction("0.25"))} == {
        25,
        50,
        75,
        100,
    }


def test_an_interval_is_in_steps_or_in_epochs() -> None:
    epochs = Epochs(n_windows=10, batch_size=4)
    steps = range(1, 11)

    def due(interval: int | str | None) -> list[int]:
        is_due = epochs.due(parse_interval(check_interval(interval)))
        return [step for step in steps if is_due(step)]

    assert due(4) == [4, 8]
    assert due("1 epoch") == [3, 5, 8, 10]
    assert due("2 epochs") == [5, 10]
    assert due("0.5 epoch") == [2, 3, 4, 5, 7, 8, 9, 10]
    assert due(None) == []


@pytest.mark.parametrize("text", ["", "epoch", "0 epochs", "0.0 epoch", "-1 epoch", "1epoch", "1."])
def test_other_intervals_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number of steps or text like '1 epoch'"):
        check_interval(text)
