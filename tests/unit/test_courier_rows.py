"""Rows of metrics given together, reports that stay few, and where a tracker's data can be seen."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from courier_parts import Mine

from llmforge.courier import JournalWriter, delivery
from llmforge.courier.cursor import Cursor
from llmforge.courier.delivery import MOST_AT_ONCE, Delivery
from llmforge.events import EvaluationEnded, Event, MetricsLogged, RunStarted


class Several(Mine, kind="tracker"):
    """Takes rows together."""

    name = "several"

    def __init__(self) -> None:
        super().__init__()
        self.took: list[list[int]] = []
        self.failures = 0

    def take_metrics(self, events: Sequence[MetricsLogged]) -> None:
        """Note the steps."""
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        self.took.append([event.step for event in events])
        self.link = "http://there"


def started(restart: int = 1) -> RunStarted:
    return RunStarted(run_id="r", attempt=1, restart=restart, directory="", config={})


def row(step: int, **values: float) -> MetricsLogged:
    return MetricsLogged(step=step, values=values or {"loss": 1.0}, time=0.0)


def evaluation(step: int) -> EvaluationEnded:
    return EvaluationEnded(step=step, split="validation", values={"loss": 2.0}, time=0.0)


def append(directory: Path, *events: Event) -> None:
    journal = JournalWriter(directory / "journal.jsonl")
    for event in events:
        journal.append(event)
    journal.close()


def deliver(directory: Path, tracker: Mine, told: list[Event]) -> tuple[Delivery, list[str]]:
    """Deliver all there is; return the delivery and what was reported."""
    reports: list[str] = []
    delivering = Delivery(
        tracker,
        call=lambda _, event: told.append(event),
        journal=directory / "journal.jsonl",
        cursor=directory / "cursor.json",
        on_error=lambda _, message: reports.append(message),
    )
    delivering.close()
    delivering.run()
    return delivering, reports


def test_waiting_rows_are_given_together_and_in_order_with_the_rest(tmp_path: Path) -> None:
    append(tmp_path, started(), row(1), row(2), evaluation(2), row(3))
    tracker, told = Several(), []
    delivering, _ = deliver(tmp_path, tracker, told)
    assert tracker.took == [[1, 2], [3]]
    assert told == [started(), evaluation(2)]
    assert (delivering.delivered, delivering.pending()) == (5, 0)


def test_a_group_is_bounded(tmp_path: Path) -> None:
    append(tmp_path, started(), *(row(step) for step in range(2 * MOST_AT_ONCE + 1)))
    tracker = Several()
    deliver(tmp_path, tracker, [])
    assert [len(steps) for steps in tracker.took] == [MOST_AT_ONCE, MOST_AT_ONCE, 1]


def test_rows_of_one_step_are_checked_one_after_the_other(tmp_path: Path) -> None:
    append(tmp_path, started(), row(1), row(1), row(1, other=2.0))
    tracker = Several()
    deliver(tmp_path, tracker, [])
    assert tracker.took == [[1], [1]]  # the second is the first again


def test_rows_a_resume_repeats_are_left_out_of_a_group(tmp_path: Path) -> None:
    append(tmp_path, started(), row(1), row(2), row(3))
    deliver(tmp_path, Several(), [])
    append(tmp_path, started(2), row(2), row(3), row(4), row(5))
    tracker, told = Several(), []
    delivering, _ = deliver(tmp_path, tracker, told)
    assert told == [started(2)]
    assert tracker.took == [[4, 5]]
    assert delivering.pending() == 0


def test_leftover_rows_are_told_after_their_start(tmp_path: Path) -> None:
    append(tmp_path, started(), row(1))
    deliver(tmp_path, Several(), [])
    append(tmp_path, row(2), row(3))
    tracker, told = Several(), []
    deliver(tmp_path, tracker, told)
    assert told == [started()]
    assert tracker.took == [[2, 3]]


def test_a_group_that_fails_stays_whole_and_undelivered(tmp_path: Path) -> None:
    append(tmp_path, started(), row(1), row(2))
    tracker = Several()
    tracker.failures = 1
    delivering, reports = deliver(tmp_path, tracker, [])
    assert reports == ["forge_metrics: ConnectionError: away"]
    assert (delivering.delivered, delivering.pending()) == (1, 2)
    again, _ = deliver(tmp_path, tracker, [])
    assert tracker.took == [[1, 2]]
    assert again.pending() == 0


def test_where_the_data_can_be_seen_is_kept(tmp_path: Path) -> None:
    append(tmp_path, started(), row(1))
    delivering, _ = deliver(tmp_path, Several(), [])
    assert delivering.link == "http://there"
    assert Cursor(tmp_path / "cursor.json").link == "http://there"


def test_failures_that_differ_in_a_number_are_reported_once_and_others_not_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    delivering = Delivery(
        Mine(),
        call=lambda *_: None,
        journal=tmp_path / "journal.jsonl",
        cursor=tmp_path / "cursor.json",
        on_error=lambda _, message: reports.append(message),
    )
    for index in range(1000):
        delivering._report(f"ConnectionError: <Connection at 0x{index:012x}> try {index}")
    assert len(reports) == 1
    for index in range(1000):
        delivering._report("x" * index)
    assert len(reports) == delivery._MOST_REPORTS
    assert len(delivering._reported) == delivery._MOST_REPORTS


def test_what_is_never_taken_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(delivery, "LONGEST_RETRY_SECONDS", 0.001)
    wide = {f"layer{index}/gradient_norm": float(index) for index in range(50)}
    append(tmp_path, started(), *(row(step, **wide) for step in range(3000)))
    size = (tmp_path / "journal.jsonl").stat().st_size
    tries: list[int] = []

    def refuse(_hook: str, _event: Event) -> None:
        tries.append(1)
        raise ConnectionError(f"try {len(tries)}")

    delivering = Delivery(
        Mine(),
        call=refuse,
        journal=tmp_path / "journal.jsonl",
        cursor=tmp_path / "cursor.json",
        on_error=lambda *_: None,
    )
    tracemalloc.start()
    try:
        delivering.start()
        deadline = time.monotonic() + 20
        while len(tries) < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert delivering.pending() == 3001
        delivering.close()
        delivering.join(10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(tries) >= 100
    assert size > 4_000_000
    assert peak < size / 8
