"""Which start of a run a tracker hears of when a new process delivers what is left."""

from __future__ import annotations

from pathlib import Path

from courier_parts import Mine

from llmforge.courier.delivery import Delivery
from llmforge.courier.journal import JournalWriter
from llmforge.events import Event, MetricsLogged, RunStarted


def started(restart: int) -> RunStarted:
    return RunStarted(run_id="r", attempt=1, restart=restart, directory="", config={})


def logged(step: int) -> MetricsLogged:
    return MetricsLogged(step=step, values={"train/loss": 1.0}, time=0.0)


def append(directory: Path, *events: Event) -> None:
    journal = JournalWriter(directory / "journal.jsonl")
    for event in events:
        journal.append(event)
    journal.close()


def deliver(directory: Path) -> tuple[list[Event], list[str]]:
    """Deliver all there is with a new tracker; return what it was told and what failed."""
    told: list[Event] = []
    failures: list[str] = []
    delivery = Delivery(
        Mine(),
        call=lambda _, event: told.append(event),
        journal=directory / "journal.jsonl",
        cursor=directory / "cursor.json",
        on_error=lambda _, message: failures.append(message),
    )
    delivery.close()
    delivery.run()
    return told, failures


def test_a_new_start_is_told_alone(tmp_path: Path) -> None:
    append(tmp_path, started(1), logged(1))
    deliver(tmp_path)
    append(tmp_path, started(2), logged(2))
    assert deliver(tmp_path) == ([started(2), logged(2)], [])


def test_leftovers_of_an_earlier_start_are_told_after_that_start(tmp_path: Path) -> None:
    append(tmp_path, started(1), logged(1))
    deliver(tmp_path)
    append(tmp_path, logged(2), started(2), logged(3))
    told, _ = deliver(tmp_path)
    assert told == [started(1), logged(2), started(2), logged(3)]


def test_nothing_left_tells_nothing(tmp_path: Path) -> None:
    append(tmp_path, started(1), logged(1))
    deliver(tmp_path)
    assert deliver(tmp_path) == ([], [])


def test_a_tracker_that_exits_is_reported_and_its_event_stays_undelivered(tmp_path: Path) -> None:
    append(tmp_path, started(1))
    failures: list[str] = []

    def call(hook: str, event: Event) -> None:
        raise SystemExit(f"{hook} {event.hook}")

    delivery = Delivery(
        Mine(),
        call=call,
        journal=tmp_path / "journal.jsonl",
        cursor=tmp_path / "cursor.json",
        on_error=lambda _, message: failures.append(message),
    )
    delivery.close()
    delivery.run()
    assert failures == ["forge_run_start: SystemExit: forge_run_start forge_run_start"]
    assert (delivery.delivered, delivery.pending()) == (0, 1)
