"""Letting signals through while a library works."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def interruptible(work: Callable[[], T]) -> T:
    """Return what ``work`` returns, computed in a thread that does not outlive the process.

    Compiled code in the main thread holds Python's signal handlers back until it returns; a
    waiting main thread runs them at once, and what a handler raises leaves from here.
    """
    future: Future[T] = Future()

    def body() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=body, daemon=True).start()
    return future.result()
