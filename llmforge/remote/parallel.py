"""Doing the same for many files, a few at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")


def for_each(
    items: Iterable[tuple[K, V]],
    work: Callable[[K, V], R],
    *,
    concurrency: int,
    failed: Callable[[], None] = lambda: None,
) -> list[R]:
    """Return what ``work`` returns for each of ``items``, in their order.

    The first error ends it: what has not started does not begin, ``failed`` is called so that what
    is under way may stop, and the error is raised once that has. Ctrl-C waits for nothing.
    """
    waiting = deque(enumerate(items))
    results: dict[int, R] = {}
    errors: list[BaseException] = []

    def serve() -> None:
        while not errors:
            try:
                index, (key, value) = waiting.popleft()
            except IndexError:
                return
            try:
                results[index] = work(key, value)
            except BaseException as error:  # raised again by the thread that waits
                errors.append(error)
                failed()

    threads = [
        threading.Thread(target=serve, name=f"forge-remote-{number}", daemon=True)
        for number in range(min(concurrency, len(waiting)))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:
        errors.append(error)
        failed()
        raise
    if errors:
        raise errors[0]
    return [results[index] for index in sorted(results)]
