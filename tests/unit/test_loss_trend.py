"""Mean, spread and trend of a loss, and the rows of metrics they come from."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from run_parts import training_rows, write_rows

from llmforge.errors import RunError
from llmforge.insight.loss_trend import WINDOW, loss_statistics, loss_trend
from llmforge.insight.metric_window import rows_up_to

STEPS = list(range(10, 1010, 10))


def falling(slope: float, noise: float = 0.0) -> list[float]:
    """Return a loss that changes by ``slope`` in 1,000 steps, with noise that repeats."""
    return [5 + slope * step / 1000 + noise * math.sin(step * 1.7) for step in STEPS]


@pytest.mark.parametrize(
    ("losses", "direction"),
    [
        (falling(-1.0, noise=0.02), "improving"),
        (falling(1.0, noise=0.02), "worsening"),
        (falling(0.001, noise=0.5), "flat"),
        (falling(0.0), "flat"),
    ],
)
def test_the_trend_is_that_of_the_last_values(losses: list[float], direction: str) -> None:
    assert loss_trend(STEPS, losses).direction == direction


def test_the_slope_is_that_of_the_line() -> None:
    trend = loss_trend(STEPS, falling(-2.5))
    assert trend.slope == pytest.approx(-2.5)
    assert trend.standard_error == pytest.approx(0.0, abs=1e-9)
    assert trend.count == WINDOW


def test_what_was_long_ago_does_not_count() -> None:
    losses = [9.0] * 50 + falling(0.5)[50:]
    assert loss_trend(STEPS, losses).direction == "worsening"
    assert loss_statistics(STEPS, losses).high < 6  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_values_have_no_trend(count: int) -> None:
    trend = loss_trend(STEPS[:count], falling(-1)[:count])
    assert (trend.direction, trend.slope, trend.count) == ("unknown", None, count)


def test_statistics_are_of_the_window() -> None:
    found = loss_statistics([1, 2, 3, 4], [1.0, 2.0, 3.0, 6.0])
    assert found is not None
    assert (found.count, found.first_step, found.last_step) == (4, 1, 4)
    assert (found.mean, found.low, found.high) == (3.0, 1.0, 6.0)
    assert found.std == pytest.approx(math.sqrt(3.5))
    assert loss_statistics([], []) is None


@pytest.mark.parametrize("log_every", [1, 7])
def test_the_rows_up_to_a_step_are_found_wherever_it_is(tmp_path: Path, log_every: int) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = training_rows(500, log_every=log_every)
    write_rows(path, rows)
    for step in (0, 1, log_every, 6, 8, 250, 499, 500, 501, 10_000):
        expected = [row for row in rows if row["step"] <= step]
        assert rows_up_to(path, step, most=10_000) == expected
        assert rows_up_to(path, step, most=3) == expected[-3:]
    assert rows_up_to(path, 500, most=0) == []


def test_a_torn_row_at_the_end_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = training_rows(50)
    write_rows(path, rows)
    with path.open("a") as file:
        file.write('{"step": 60, "train')
    assert rows_up_to(path, 100, most=2) == rows[-2:]
    assert rows_up_to(tmp_path / "nowhere", 100, most=2) == []


def test_a_damaged_row_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl has a damaged row"):
        rows_up_to(path, 3, most=10)
