"""Doing the same for many files, a few at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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

    The first error ends it: what has not begun does not begin, ``failed`` is called so that what
    is under way may stop, and the error is raised once that has.
    """
    with ThreadPoolExecutor(concurrency, thread_name_prefix="forge-remote") as pool:
        futures = [pool.submit(work, key, value) for key, value in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            failed()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
