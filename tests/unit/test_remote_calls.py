"""Calls to storage: a deadline, a few tries, a fresh start, a shared bandwidth, clear errors."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llmforge import Component, hookimpl
from llmforge.errors import StorageError, StorageStalled, UsageError
from llmforge.remote import Cancelled, Connections, Limiter, open_storage
from llmforge.remote.deadline import Pulse, call
from llmforge.remote.transfer import for_each


def test_a_call_returns_what_it_returns_and_raises_what_it_raises() -> None:
    assert call(lambda: 3, seconds=5, what="x") == 3
    with pytest.raises(KeyError, match="no"):
        call(lambda: {}["no"], seconds=5, what="x")


def test_a_silent_call_is_given_up_and_its_thread_stops_at_its_next_sign() -> None:
    go_on, ended = threading.Event(), threading.Event()
    pulse = Pulse()

    def work() -> None:
        try:
            go_on.wait(20)
            pulse(1)
        finally:
            ended.set()

    started = time.monotonic()
    with pytest.raises(StorageStalled, match=r"reading x: nothing moved for 0\.2 seconds"):
        call(work, seconds=0.2, what="reading x", progress=pulse)
    assert time.monotonic() - started < 5
    go_on.set()
    assert ended.wait(5)


def test_a_call_that_moves_may_take_as_long_as_it_takes() -> None:
    pulse = Pulse()

    def work() -> str:
        for _ in range(8):
            time.sleep(0.1)
            pulse(1)
        return "done"

    assert call(work, seconds=0.5, what="x", progress=pulse) == "done"


def test_a_library_that_exits_does_not_end_the_process() -> None:
    def work() -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="exit"):
        call(work, seconds=5, what="x")


def test_threads_share_the_bandwidth() -> None:
    limiter = Limiter(1_000_000)
    waits: list[None] = []

    def move() -> None:
        for _ in range(4):
            limiter.take(50_000, waiting=lambda: waits.append(None))

    threads = [threading.Thread(target=move) for _ in range(2)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.39 <= time.monotonic() - started < 2
    assert waits


def test_waiting_for_bandwidth_is_no_stall(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(1_000_000))
    slow = Connections(f"file://{tmp_path}/place", stall_seconds=0.6, limiter=Limiter(500_000))
    started = time.monotonic()
    slow.call(
        "x", lambda storage, progress: storage.put(source, "a", progress=progress), limited=True
    )
    assert time.monotonic() - started >= 1.9


class Flaky:
    """Fails a number of times with an error, then works; keeps the places it was given."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left = times
        self.error = error
        self.places: list[Any] = []

    def __call__(self, storage: Any, _: Any) -> str:
        self.places.append(storage)
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


@pytest.fixture
def connections() -> Connections:
    return Connections("memory://calls", stall_seconds=5)


def test_a_failing_call_is_tried_again_and_then_in_a_place_opened_afresh(
    connections: Connections,
) -> None:
    work = Flaky(4, ConnectionResetError("reset"))
    assert connections.call("x", work) == "done"
    assert work.places[0] is work.places[1] is work.places[2]
    assert len({id(place) for place in work.places}) == 3
    again = Flaky(0, ValueError())
    connections.call("x", again)
    assert again.places == work.places[-1:]


def test_what_keeps_failing_is_one_clear_error(connections: Connections) -> None:
    with pytest.raises(StorageError, match="reading a failed in memory://calls: OSError: 500"):
        connections.call("reading a", Flaky(99, OSError("500")))


def test_a_refusal_is_not_tried_again(connections: Connections) -> None:
    work = Flaky(99, PermissionError("denied"))
    with pytest.raises(StorageError, match="denied"):
        connections.call("x", work)
    assert len(work.places) == 1


@pytest.mark.parametrize("error", [FileNotFoundError("a"), Cancelled()])
def test_answers_are_passed_on_at_once(connections: Connections, error: Exception) -> None:
    work = Flaky(99, error)
    with pytest.raises(type(error)):
        connections.call("x", work, expected=(FileNotFoundError,))
    assert len(work.places) == 1


def test_calls_at_once_have_places_of_their_own(connections: Connections) -> None:
    both = threading.Barrier(2, timeout=10)
    places: list[Any] = []

    def work(storage: Any, _: Any) -> None:
        places.append(storage)
        both.wait()

    threads = [threading.Thread(target=connections.call, args=("x", work)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(place) for place in places}) == 2


def test_no_login_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    connections = Connections("memory://user:canary@place/x?key=canary")
    error = OSError("cannot reach memory://user:canary@place/x?key=canary nor http://u:canary@h/")
    with pytest.raises(StorageError) as raised:
        connections.call("reading", Flaky(99, error))
    assert "canary" not in str(raised.value)
    assert "memory://place/x" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("bucket/runs", {}, "is not a URL"),
        ("memory://x", {"chunk": 3}, "storage.memory.chunk: unknown key"),
        ("nosuch://u:canary@x", {}, "nosuch"),
    ],
)
def test_a_place_that_cannot_be_opened_says_why(
    url: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(StorageError, match=message) as raised:
        Connections(url, options).call("x", lambda storage, _: storage.read("a"))
    assert "canary" not in str(raised.value)


def test_the_scheme_picks_the_component(tmp_path: Path) -> None:
    for url, module in (
        (f"file://{tmp_path}", "_local"),
        ("memory://x", "_memory"),
        ("dir::memory://x", "_filesystem"),
    ):
        assert type(open_storage(url)).__module__ == f"llmforge_plugins.storage.{module}"


def test_forge_open_storage_is_given_the_whole_url(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bucket(Component, kind="storage"):
        """Opens nothing."""

        @hookimpl
        def forge_open_storage(self, url: str) -> Any:
            return ("opened", url)

    monkeypatch.setattr("llmforge.plugins.load", lambda *_: Bucket)
    assert open_storage("memory://user@x/y?z=1") == ("opened", "memory://user@x/y?z=1")


def test_many_are_done_a_few_at_once_and_answered_in_order() -> None:
    busy, most, lock = [0], [0], threading.Lock()

    def work(number: int, _: None) -> int:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.01)
        with lock:
            busy[0] -= 1
        return number * 2

    items = [(number, None) for number in range(20)]
    assert for_each(items, work, concurrency=3) == [number * 2 for number in range(20)]
    assert most[0] == 3
    assert for_each([], work, concurrency=3) == []


def test_the_first_error_of_many_ends_the_rest() -> None:
    started: list[int] = []
    stop = threading.Event()

    def work(number: int, _: None) -> None:
        started.append(number)
        if number == 1:
            raise ValueError("the first")
        if not stop.wait(20):
            raise AssertionError("nobody told that it failed")
        raise RuntimeError("stopped")

    items = [(number, None) for number in range(100)]
    with pytest.raises(ValueError, match="the first"):
        for_each(items, work, concurrency=4, failed=stop.set)
    assert len(started) <= 4


@pytest.mark.parametrize("error", [StorageError("no login", remedy="log in"), UsageError("x")])
def test_an_error_that_says_all_is_passed_on_as_it_is(
    connections: Connections, error: Exception
) -> None:
    work = Flaky(99, error)
    with pytest.raises(type(error)) as raised:
        connections.call("x", work)
    assert raised.value is error
    assert raised.value.__cause__ is None
    assert len(work.places) == 1
