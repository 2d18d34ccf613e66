"""Doing the same for many files at once, in threads that never hold up the end of the process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_SECONDS = 0.5


def in_parallel(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    threads: int,
    waiting: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Return ``work(item)`` of every item, in order.

    Args:
        work: done in a thread; what it raises first is raised here, and nothing more is started.
        items: what to work on.
        threads: at most so many at once.
        waiting: called about twice a second, in the calling thread, with the number of items
            done; may raise. A signal's exception gets through too. Work under way is abandoned.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Result | None, BaseException | None]] = queue.SimpleQueue()
    for index in range(len(items)):
        todo.put(index)
    stop = threading.Event()

    def run() -> None:
        for index in _taken(todo, stop):
            try:
                done.put((index, work(items[index]), None))
            except BaseException as error:  # raised again where the results are awaited
                done.put((index, None, error))

    for _ in range(min(threads, len(items))):
        threading.Thread(target=run, name="forge-data", daemon=True).start()
    results: dict[int, Result] = {}
    try:
        while len(results) < len(items):
            try:
                index, result, error = done.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                waiting(len(results))
                continue
            if error is not None:
                raise error
            results[index] = result  # type: ignore[assignment]  # it is a result: no error came
    finally:
        stop.set()
    return [results[index] for index in range(len(items))]


def _taken(todo: queue.SimpleQueue[int], stop: threading.Event) -> Iterator[int]:
    while not stop.is_set():
        try:
            yield todo.get_nowait()
        except queue.Empty:
            return
