"""Waiting for a moment or a key, and noticing that the terminal has another size."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any


class Keys:
    """Keys pressed on the terminal at standard input, read without Enter while it is entered.

    Where there is no such terminal, or on Windows, there are no keys and it only waits.
    """

    def __init__(self) -> None:
        self._mode: list[Any] | None = None
        self._wake: tuple[int, int] | None = None

    def __enter__(self) -> Keys:
        if os.name != "posix":
            return self
        self._wake = os.pipe()
        os.set_blocking(self._wake[1], False)
        signal.signal(signal.SIGWINCH, self._resized)
        try:
            import termios
            import tty

            if sys.stdin.isatty():
                self._mode = termios.tcgetattr(sys.stdin.fileno())
                tty.setcbreak(sys.stdin.fileno())
        except (OSError, ValueError, termios.error):
            self._mode = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._mode is not None:
            import termios

            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._mode)
        if self._wake is not None:
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
            for descriptor in self._wake:
                os.close(descriptor)

    def wait(self, seconds: float) -> str:
        """Return the key that is pressed within ``seconds``; empty after them or a new size."""
        if self._wake is None:
            time.sleep(seconds)
            return ""
        watched = [self._wake[0]]
        watched += [sys.stdin.fileno()] if self._mode is not None else []
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._wake[0] in ready:
            os.read(self._wake[0], 1024)
        if self._mode is None or sys.stdin.fileno() not in ready:
            return ""
        pressed = os.read(sys.stdin.fileno(), 64)
        if not pressed:  # the terminal is gone
            return "q"
        return pressed.decode(errors="replace")

    def _resized(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        assert self._wake is not None
        try:
            os.write(self._wake[1], b"\0")
        except BlockingIOError:
            return  # it wakes up already
