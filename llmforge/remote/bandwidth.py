"""A limit on what all uploads of a process may send together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_NAP_SECONDS = 0.5


class Limiter:
    """Lets threads together move ``bytes_per_second``: whoever moved more waits for its share."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._paid_until = 0.0

    def take(self, amount: int, *, waiting: Callable[[], None]) -> None:
        """Wait until ``amount`` bytes that were moved are within the limit.

        Args:
            amount: bytes moved.
            waiting: called every now and then meanwhile; it may raise.
        """
        with self._lock:
            self._paid_until = max(time.monotonic(), self._paid_until) + amount / self._rate
            until = self._paid_until
        while (left := until - time.monotonic()) > 0:
            waiting()
            time.sleep(min(left, _NAP_SECONDS))
