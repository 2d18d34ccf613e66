"""Journal, cursor and delivery: every event once and in order, whatever the tracker does."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from courier_parts import Mine

from llmforge.courier import JournalWriter, cut_torn_line, delivery, read_events
from llmforge.courier.cursor import Cursor, rewind_cursors
from llmforge.courier.delivery import Delivery
from llmforge.errors import DeliveryLost
from llmforge.events import (
    ArtifactWritten,
    CheckpointSaved,
    CheckpointUploaded,
    EvaluationEnded,
    Event,
    MetricsLogged,
    RunEnded,
    RunStarted,
    SamplesGenerated,
)


def start(restart: int = 1) -> RunStarted:
    return RunStarted(run_id="r", attempt=1, restart=restart, directory="d", config={})


def metrics(step: int, **values: float) -> MetricsLogged:
    return MetricsLogged(step=step, values=values or {"loss": 1.0 / step}, time=0.0)


def evaluation(step: int) -> EvaluationEnded:
    return EvaluationEnded(step=step, split="validation", values={"loss": 2.0}, time=0.0)


def saved(step: int) -> CheckpointSaved:
    return CheckpointSaved(step=step, path="p", size=1, is_best=False, seconds=0.1)


def end(state: str = "completed") -> RunEnded:
    return RunEnded(state=state, reason="", step=1, metrics={})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalWriter]:
    writer = JournalWriter(tmp_path / "journal.jsonl")
    yield writer
    writer.close()


class Place:
    """A journal's directory, and deliveries from it."""

    def __init__(self, path: Path) -> None:
        self.journal = path / "journal.jsonl"
        self.cursor = path / "cursor.json"
        self.given: list[Event] = []
        self.errors: list[str] = []

    def deliver(
        self,
        call: Callable[[str, Any], Any] | None = None,
        *,
        has_arrived: Callable[[Event], bool] = lambda _: True,
    ) -> Delivery:
        """Start a delivery; by default every event is taken, and has arrived."""

        def take(hook: str, event: Any) -> None:
            assert event.hook == hook
            self.given.append(event)

        tracker = Mine()
        tracker.has_arrived = has_arrived  # type: ignore[method-assign]
        thread = Delivery(
            tracker,
            call=call or take,
            journal=self.journal,
            cursor=self.cursor,
            on_error=lambda tracker, message: self.errors.append(f"{tracker}: {message}"),
        )
        thread.start()
        return thread

    def delivered_on_disk(self) -> int:
        """Return how many events the cursor on disk has as delivered."""
        return int(json.loads(self.cursor.read_text())["delivered"]) if self.cursor.exists() else 0

    def deliver_all(self, call: Callable[[str, Any], Any] | None = None) -> Delivery:
        """Deliver what there is and end."""
        thread = self.deliver(call)
        thread.close()
        thread.join(10)
        assert not thread.is_alive()
        return thread


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(delivery, "FIRST_RETRY_SECONDS", 0.01)


# The journal ----------------------------------------------------------------------------------


def test_events_come_back_equal_and_in_order(journal: JournalWriter, place: Place) -> None:
    events = [start(), metrics(1, loss=0.1 + 0.2), evaluation(1), saved(1), end()]
    for event in events:
        journal.append(event)
    assert [event for event, _ in read_events(place.journal, 0)] == events
    middle = list(read_events(place.journal, 0))[1][1]
    assert [event for event, _ in read_events(place.journal, middle)] == events[2:]


def test_a_line_that_is_no_event_is_passed_over(journal: JournalWriter, place: Place) -> None:
    journal.append(metrics(1))
    with place.journal.open("ab") as file:
        file.write(b'{"hook": "forge_of_the_future", "x": 1}\nnot json\n')
    journal.append(metrics(2))
    found = [event for event, _ in read_events(place.journal, 0)]
    assert found == [metrics(1), None, None, metrics(2)]
    place.deliver_all()
    assert place.given == [metrics(1), metrics(2)]


@pytest.mark.parametrize("torn", [b"", b'{"hook": "forge_met', b"x" * (3 << 20)])
def test_a_torn_last_line_is_not_read_and_cut_before_more_is_written(
    place: Place, torn: bytes
) -> None:
    first = JournalWriter(place.journal)
    first.append(metrics(1))
    first.close()
    with place.journal.open("ab") as file:
        file.write(torn)
    assert [event for event, _ in read_events(place.journal, 0)] == [metrics(1)]

    second = JournalWriter(place.journal)
    second.append(metrics(2))
    second.close()
    assert [event for event, _ in read_events(place.journal, 0)] == [metrics(1), metrics(2)]


def test_a_file_of_one_torn_line_becomes_empty_and_a_missing_one_stays_missing(
    tmp_path: Path,
) -> None:
    (tmp_path / "torn").write_bytes(b"half")
    cut_torn_line(tmp_path / "torn")
    assert (tmp_path / "torn").read_bytes() == b""
    cut_torn_line(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_threads_append_whole_lines(journal: JournalWriter, place: Place) -> None:
    def append(first: int) -> None:
        for step in range(first, first + 200):
            journal.append(metrics(step))

    threads = [threading.Thread(target=append, args=(1 + 200 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [event for event, _ in read_events(place.journal, 0)]
    assert sorted(event.step for event in found) == list(range(1, 801))  # type: ignore[union-attr]


def test_an_event_that_finds_no_room_leaves_nothing_of_itself(
    journal: JournalWriter, place: Place
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal.append(metrics(1))
    room = place.journal.stat().st_size + 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.append(metrics(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    journal.append(metrics(3))
    assert [event for event, _ in read_events(place.journal, 0)] == [metrics(1), metrics(3)]


# The cursor -----------------------------------------------------------------------------------


def test_values_are_new_above_their_own_mark_only(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / "cursor.json")
    cursor.advance(metrics(5, loss=1.0), 10, delivered=True)
    assert cursor.fresh(metrics(5, loss=1.0)) is None
    assert cursor.fresh(metrics(4, loss=1.0)) is None
    assert cursor.fresh(metrics(6, loss=1.0)) == metrics(6, loss=1.0)
    assert cursor.fresh(metrics(5, loss=1.0, speed=2.0)) == metrics(5, speed=2.0)
    assert cursor.fresh(evaluation(5)) == evaluation(5)


@pytest.mark.parametrize(
    "make", [saved, lambda step: SamplesGenerated(step=step, samples=({"text": "x"},))]
)
def test_what_happens_once_a_step_is_new_above_its_mark(
    tmp_path: Path, make: Callable[[int], Event]
) -> None:
    cursor = Cursor(tmp_path / "cursor.json")
    cursor.advance(make(5), 10, delivered=True)
    assert cursor.fresh(make(5)) is None
    assert cursor.fresh(make(6)) == make(6)


def test_uploads_are_new_whatever_was_uploaded_before_them(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / "cursor.json")
    cursor.advance(CheckpointUploaded(step=5, url="s3://x"), 10, delivered=True)
    assert cursor.fresh(CheckpointUploaded(step=5, url="s3://x")) is None
    for step in (4, 6):
        event = CheckpointUploaded(step=step, url="s3://x")
        assert cursor.fresh(event) == event


def test_starts_ends_and_artifacts_without_a_step_are_always_new(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / "cursor.json")
    artifact = ArtifactWritten(name="loss", path="plots/loss.png", type="plot")
    for event in (start(), end(), artifact):
        cursor.advance(event, 10, delivered=True)
        assert cursor.fresh(event) == event


def test_what_was_not_delivered_leaves_no_mark(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / "cursor.json")
    cursor.advance(metrics(5), 10, delivered=False)
    assert cursor.offset == 10
    assert cursor.delivered == 0
    assert cursor.fresh(metrics(5)) == metrics(5)


def test_a_saved_cursor_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "cursors" / "tracker-mine.json"
    first = Cursor(path)
    first.advance(metrics(5), 123, delivered=True)
    first.advance(saved(5), 456, delivered=True)
    first.save()
    second = Cursor(path)
    assert (second.offset, second.delivered) == (456, 2)
    assert second.fresh(metrics(5)) is None
    assert second.fresh(saved(5)) is None


def test_cursors_of_another_machine_begin_at_the_top_and_repeat_nothing(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / "tracker-mine.json")
    cursor.advance(metrics(5), 123, delivered=True)
    cursor.link = "https://tracker/run"
    cursor.save()
    (tmp_path / ".lock").touch()
    rewind_cursors(tmp_path)
    again = Cursor(tmp_path / "tracker-mine.json")
    assert (again.offset, again.delivered, again.link) == (0, 1, "https://tracker/run")
    assert again.fresh(metrics(5)) is None
    assert again.fresh(metrics(6)) == metrics(6)
    rewind_cursors(tmp_path / "absent")


# Delivery -------------------------------------------------------------------------------------


def test_everything_is_delivered_once_and_in_order(journal: JournalWriter, place: Place) -> None:
    events = [start(), *(metrics(step) for step in range(1, 20)), end()]
    thread = place.deliver()
    for event in events:
        journal.append(event)
    thread.close()
    thread.join(10)
    assert place.given == events
    assert thread.delivered == len(events)
    assert thread.pending() == 0
    again = place.deliver_all()
    assert place.given == events
    assert again.delivered == len(events)


def test_a_resumed_run_repeats_nothing(journal: JournalWriter, place: Place) -> None:
    for event in (start(), metrics(1), metrics(2), evaluation(2), metrics(3)):
        journal.append(event)
    place.deliver_all()
    for event in (start(2), metrics(2), evaluation(2), metrics(3), metrics(4), end()):
        journal.append(event)
    place.deliver_all()
    assert [event for event in place.given if isinstance(event, MetricsLogged)] == [
        metrics(step) for step in (1, 2, 3, 4)
    ]
    assert place.given.count(evaluation(2)) == 1
    assert place.given[-1] == end()


def test_an_event_that_fails_is_tried_again_before_the_next(
    journal: JournalWriter, place: Place
) -> None:
    failures = iter([ConnectionError("away"), ConnectionError("away"), TimeoutError("slow")])

    def call(hook: str, event: Any) -> None:
        if event == metrics(2) and (failure := next(failures, None)) is not None:
            raise failure
        place.given.append(event)

    for step in (1, 2, 3):
        journal.append(metrics(step))
    thread = place.deliver(call)
    deadline = time.monotonic() + 10
    while len(place.given) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    thread.close()
    thread.join(10)
    assert place.given == [metrics(1), metrics(2), metrics(3)]
    assert place.errors == [
        "mine: forge_metrics: ConnectionError: away",
        "mine: forge_metrics: TimeoutError: slow",
    ]


def test_closing_tries_the_failing_event_once_more_and_keeps_the_rest(
    journal: JournalWriter, place: Place
) -> None:
    calls: list[Event] = []

    def refuse(hook: str, event: Any) -> None:
        calls.append(event)
        raise ConnectionError("away")

    journal.append(metrics(1))
    journal.append(metrics(2))
    thread = place.deliver_all(refuse)
    assert {event.step for event in calls} == {1}  # type: ignore[attr-defined]
    assert thread.pending() == 2
    assert thread.delivered == 0
    place.deliver_all()
    assert place.given == [metrics(1), metrics(2)]


def test_a_tracker_that_exits_is_reported_like_one_that_raises(
    journal: JournalWriter, place: Place
) -> None:
    def leave(hook: str, event: Any) -> None:
        raise SystemExit(3)

    journal.append(metrics(1))
    assert place.deliver_all(leave).pending() == 1
    assert place.errors == ["mine: forge_metrics: SystemExit: 3"]


def test_a_new_process_hears_of_the_start_whose_events_are_left(
    journal: JournalWriter, place: Place
) -> None:
    journal.append(start())
    journal.append(metrics(1))
    place.deliver_all()
    journal.append(metrics(2))
    place.given.clear()
    place.deliver_all()
    assert place.given == [start(), metrics(2)]


def test_a_new_process_hears_only_of_the_new_start_when_nothing_was_left(
    journal: JournalWriter, place: Place
) -> None:
    journal.append(start())
    journal.append(metrics(1))
    place.deliver_all()
    place.given.clear()
    journal.append(start(2))
    journal.append(metrics(2))
    place.deliver_all()
    assert place.given == [start(2), metrics(2)]


def test_the_cursor_on_disk_never_lags_by_more_than_the_event_under_way(
    journal: JournalWriter, place: Place
) -> None:
    on_disk: list[int] = []

    def look(hook: str, event: Any) -> None:
        known = place.cursor.exists()
        on_disk.append(json.loads(place.cursor.read_text())["delivered"] if known else 0)

    for step in range(1, 6):
        journal.append(metrics(step))
    place.deliver_all(look)
    assert on_disk == [0, 1, 2, 3, 4]


# Arrival --------------------------------------------------------------------------------------


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(thread: Delivery, over: threading.Event) -> None:
    over.set()
    thread.close()
    thread.join(10)
    assert not thread.is_alive()


def test_what_was_taken_but_has_not_arrived_is_told_again_by_the_next_process(
    journal: JournalWriter, place: Place
) -> None:
    told = [start(), metrics(1), metrics(2), evaluation(2), metrics(3)]
    for event in told:
        journal.append(event)
    over = threading.Event()
    thread = place.deliver(has_arrived=lambda event: over.is_set() or event in told[:2])
    wait_until(lambda: place.given == told)
    wait_until(lambda: place.delivered_on_disk() == 2)
    place.given.clear()
    place.deliver_all()
    assert place.given == [start(), *told[2:]]
    finish(thread, over)


def test_closing_waits_for_what_is_still_under_way(journal: JournalWriter, place: Place) -> None:
    arrived = threading.Event()
    journal.append(metrics(1))
    thread = place.deliver(has_arrived=lambda _: arrived.is_set())
    wait_until(lambda: place.given == [metrics(1)])
    thread.close()
    thread.join(0.2)
    assert thread.is_alive()
    assert (thread.delivered, thread.pending()) == (0, 1)
    arrived.set()
    thread.join(10)
    assert (thread.delivered, thread.pending()) == (1, 0)


def test_repeated_steps_are_not_told_twice_while_the_first_is_under_way(
    journal: JournalWriter, place: Place
) -> None:
    over = threading.Event()
    thread = place.deliver(has_arrived=lambda _: over.is_set())
    for event in (metrics(1), metrics(2), start(2), metrics(2), metrics(3)):
        journal.append(event)
    wait_until(lambda: len(place.given) == 4)
    assert place.given == [metrics(1), metrics(2), start(2), metrics(3)]
    assert thread.delivered == 0
    finish(thread, over)


def test_what_is_lost_is_told_again_at_once_with_its_start(
    journal: JournalWriter, place: Place
) -> None:
    lost = iter([metrics(2)])

    def has_arrived(event: Event) -> bool:
        if event == metrics(2) and next(lost, None):
            raise DeliveryLost("the server forgot")
        return True

    for event in (start(), metrics(1), metrics(2), metrics(3)):
        journal.append(event)
    thread = place.deliver(has_arrived=has_arrived)
    thread.close()
    thread.join(10)
    assert place.given == [start(), metrics(1), metrics(2), start(), metrics(2), metrics(3)]
    assert place.errors == ["mine: the server forgot"]
    assert (thread.delivered, thread.pending()) == (4, 0)


def test_a_tracker_that_cannot_say_what_arrived_is_reported_and_asked_again(
    journal: JournalWriter, place: Place
) -> None:
    answers = iter([ConnectionError("away"), ConnectionError("away")])

    def has_arrived(event: Event) -> bool:
        if (failure := next(answers, None)) is not None:
            raise failure
        return True

    journal.append(metrics(1))
    thread = place.deliver(has_arrived=has_arrived)
    wait_until(lambda: thread.delivered == 1)
    thread.close()
    thread.join(10)
    assert place.given == [metrics(1)]
    assert place.errors == ["mine: forge_metrics: ConnectionError: away"]
