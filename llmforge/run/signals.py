"""Stopping on SIGTERM, SIGHUP and Ctrl-C: at once while nothing is at stake, else at a safe point.

Before the first step, and while samples and plots are made, a signal raises where it arrives. In
between, inside :meth:`StopSignals.deferred`, it only sets :attr:`StopSignals.requested`, which the
loop asks after every step and every evaluated batch. A second Ctrl-C always raises; a second
SIGTERM is only noted, so that it does not break off what the first one has started to save.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

from llmforge.stop_signals import stop_signals


class StopNow(BaseException):
    """Raised by a signal where it arrives; no library's ``except Exception`` swallows it."""


class StopSignals:
    """Handles :func:`stop_signals` while it is entered; does nothing outside the main thread."""

    def __init__(self) -> None:
        self.requested: str | None = None
        self.state = "interrupted"
        self._deferred = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in stop_signals():
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block a signal is only noted."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    def request(self, reason: str, *, state: str = "interrupted") -> None:
        """Ask for a stop from within the process, as a signal called ``reason`` would.

        Args:
            reason: what stopped the run, after the words "stopped by".
            state: that the run is left in.
        """
        if self.requested is None:
            self.requested, self.state = reason, state

    def check(self) -> None:
        """Raise when a stop was asked for.

        A handler's exception can get lost in a library's clean-up code, so the phases that a
        signal interrupts at once also ask here between their parts.

        Raises:
            StopNow: a signal has arrived.
        """
        if self.requested is not None:
            raise StopNow(self.requested)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        again = self.requested is not None
        self.requested = signal.Signals(number).name
        if number == signal.SIGINT if again else not self._deferred:
            raise StopNow(self.requested)
