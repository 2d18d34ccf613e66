"""A bound on every call to storage: one that does not move is given up, its thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from llmforge.errors import StorageStalled
from llmforge.interfaces import Progress

T = TypeVar("T")


class Pulse:
    """The signs of life of one call; handed to storage as its ``progress``.

    Once the call was given up it raises in the thread left behind, so that this stops, too.

    Args:
        told: told the bytes of every sign.
    """

    def __init__(self, told: Progress | None = None) -> None:
        self._told = told
        self._last = time.monotonic()
        self._given_up = False

    def __call__(self, moved: int) -> None:
        """Take note that ``moved`` bytes moved."""
        self.beat()
        if self._told is not None:
            self._told(moved)

    def beat(self) -> None:
        """Take note that the call is alive.

        Raises:
            StorageStalled: nobody waits for it any more.
        """
        if self._given_up:
            raise StorageStalled("the call was given up")
        self._last = time.monotonic()

    def give_up(self) -> None:
        """Stop the call at its next sign."""
        self._given_up = True

    @property
    def silence(self) -> float:
        """Seconds since the last sign."""
        return time.monotonic() - self._last


class _Outcome(Generic[T]):
    """What became of a call in another thread."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: list[T] = []
        self.error: BaseException | None = None


def call(work: Callable[[], T], *, seconds: float, what: str, progress: Pulse | None = None) -> T:
    """Return ``work()``, run in a thread of its own.

    Args:
        work: the call.
        seconds: how long it may be silent.
        what: the call as messages name it.
        progress: its signs of life; absent: it has ``seconds`` in all.

    Raises:
        StorageStalled: it was silent for too long; its thread is left behind.
        Exception: whatever ``work`` raised.
    """
    pulse = progress or Pulse()
    outcome: _Outcome[T] = _Outcome()
    thread = threading.Thread(
        target=_run, args=(work, outcome), name=f"forge-storage {what}", daemon=True
    )
    pulse.beat()
    thread.start()
    while not outcome.done.wait(max(0.0, seconds - pulse.silence)):
        if pulse.silence >= seconds:
            pulse.give_up()
            raise StorageStalled(f"{what}: nothing moved for {seconds:g} seconds")
    if outcome.error is not None:
        raise outcome.error
    return outcome.value[0]


def _run(work: Callable[[], T], outcome: _Outcome[T]) -> None:
    try:
        outcome.value.append(work())
    except SystemExit as error:  # a library that gives up by exiting must not end the process
        outcome.error = RuntimeError(f"the storage called sys.exit({error.code!r})")
    except BaseException as error:  # handed to the caller, whatever it is
        outcome.error = error
    finally:
        outcome.done.set()
