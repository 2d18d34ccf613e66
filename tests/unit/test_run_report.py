"""How progress reads: one dense line, durations, a line of bars."""

from __future__ import annotations

import logging
from collections import deque

import pytest

from llmforge.progress import duration
from llmforge.run.reporting.reporter import (
    LiveReporter,
    Reporter,
    TerminalFilter,
    evaluation_line,
    sparkline,
    step_line,
)
from llmforge.run.training.throughput import Stopwatch

ROW = {"step": 40, "epoch": 0.5, "train/loss": 3.14159, "lr": 1e-3, "grad_norm": 0.5}


def test_a_step_is_one_dense_line() -> None:
    timing = {"tokens_per_second": 12345.6, "eta_seconds": 65.0, "mfu": 0.123}
    assert step_line(ROW, timing, total=1000) == (
        "step   40/1000  epoch 0.50  loss 3.1416  lr 1.00e-03  grad 0.50  12,346 tok/s  "
        "mfu 12.3%  eta 1:05"
    )


def test_what_is_not_known_is_left_out() -> None:
    line = step_line({"step": 4, "epoch": 0.5}, {"mfu": None}, total=8)
    assert line == "step 4/8  epoch 0.50  eta 0:00"


def test_an_evaluation_names_the_best() -> None:
    values = {"val/loss": 2.5, "val/perplexity": 12.1825}
    line = evaluation_line(5, values, is_best=True)
    assert line == "evaluation at step 5: val/loss 2.5000  val/perplexity 12.1825  (best)"
    assert "best" not in evaluation_line(5, values, is_best=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.4, "59:59"), (3600, "1:00:00")],
)
def test_durations_read_as_clocks(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_bars_span_from_lowest_to_highest() -> None:
    assert sparkline(deque([1.0, 2.0, 8.0])) == "▁▂█"
    assert sparkline(deque([3.0, 3.0])) == "▁▁"
    assert sparkline(deque([3.0])) == ""


def test_the_stopwatch_shares_all_time_out_and_begins_anew() -> None:
    watch = Stopwatch()
    watch.lap("data")
    watch.lap("compute")
    watch.lap("data")
    seconds, parts = watch.read()
    assert set(parts) == {"data", "compute"}
    assert 0 < sum(parts.values()) <= seconds
    assert watch.read()[1] == {}


def test_a_phase_that_the_live_display_shows_is_not_printed_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="llmforge.run"):
        LiveReporter().phase("evaluating at step 20")
        Reporter().phase("evaluating at step 40")
    live, plain = caplog.records
    assert live.getMessage() == "evaluating at step 20"  # for the log file
    assert [TerminalFilter().filter(record) for record in (live, plain)] == [False, True]
