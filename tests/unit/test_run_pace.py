"""Rates are averaged over whole windows, however near two rows are."""

from __future__ import annotations

import pytest

from llmforge.run.training import throughput as pace
from llmforge.run.training.throughput import Pace


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def test_a_row_between_two_logged_steps_cuts_no_rate_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    timer = Pace(
        0, stop_at=40, window=10, tokens=lambda step: 8 * step, peak_tokens_per_second=None
    )
    found = {}
    for step in range(1, 41):
        clock.now += 5.0 if step == 21 else 1.0  # one slow step, right after an epoch's end
        timer.lap("compute")
        if step % 10 == 0 or step in (9, 19, 21, 29):
            found[step] = timer.row(step)
    assert found[10]["step_seconds"] == 1.0
    assert found[21]["step_seconds"] == pytest.approx(15 / 11, abs=1e-6)  # since step 10, not 20
    assert found[29]["step_seconds"] == pytest.approx(1.4)
    assert found[30]["tokens_per_second"] == pytest.approx(8 * 10 / 14, abs=0.1)
    assert found[40]["step_seconds"] == 1.0
    assert found[40]["eta_seconds"] == 0.0
    assert sum(row["seconds"] for row in found.values()) == 44.0
