"""How fast the steps go, and what the step thread's time is spent on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Sums up where the step thread's time goes between two logged rows, in seconds."""

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self._since = time.perf_counter()
        self._mark = self._since

    def lap(self, part: str) -> None:
        """Count the time since the last lap as ``part``."""
        now = time.perf_counter()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._mark
        self._mark = now

    def read(self) -> tuple[float, dict[str, float]]:
        """Return the seconds since the last read and their parts, and start again."""
        now = time.perf_counter()
        result = now - self._since, self._parts
        self._since, self._parts = now, {}
        return result


class Pace:
    """Makes the timing row of a logged step.

    Args:
        step: the step this start of the run continues from.
        stop_at: the step it goes to.
        window: steps that a rate is averaged over at least, once so many were taken; a row in
            between, such as one at an epoch's end, cuts it no shorter.
        tokens: returns the tokens of all steps until one.
        peak_tokens_per_second: what the device could do at its peak, for MFU; None when unknown.
    """

    def __init__(
        self,
        step: int,
        *,
        stop_at: int,
        window: int,
        tokens: Callable[[int], int],
        peak_tokens_per_second: float | None,
    ) -> None:
        self._first = step
        self._stop_at = stop_at
        self._window = window
        self._trained = 0.0
        self._rows = deque([(step, 0.0)])  # steps, and seconds of training until then
        self._tokens = tokens
        self._peak = peak_tokens_per_second
        self._began = time.perf_counter()
        self._watch = Stopwatch()
        self.lap: Callable[[str], None] = self._watch.lap

    def row(self, step: int) -> dict[str, Any]:
        """Return the timing row of ``step``: seconds, rates, and the share of each part."""
        seconds, parts = self._watch.read()
        self._trained += parts.get("compute", 0.0) + parts.get("data", 0.0)
        self._rows.append((step, self._trained))
        while len(self._rows) > 2 and step - self._rows[1][0] >= self._window:
            self._rows.popleft()
        since, trained = self._rows[0]
        steps = max(1, step - since)
        training = max(1e-9, self._trained - trained)
        rate = (self._tokens(step) - self._tokens(since)) / training
        average = (time.perf_counter() - self._began) / max(1, step - self._first)
        row: dict[str, Any] = {
            "step": step,
            "time": time.time(),
            "seconds": round(seconds, 6),
            "step_seconds": round(training / steps, 6),
            "tokens_per_second": round(rate, 1),
            "eta_seconds": round(average * (self._stop_at - step), 1),
        }
        row |= {f"{part}_share": round(spent / seconds, 6) for part, spent in sorted(parts.items())}
        if self._peak:
            row["mfu"] = round(rate / self._peak, 4)
        return row


_HALF = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
_SINGLE = {
    "H200": 67e12,
    "H100": 67e12,
    "A100": 19.5e12,
    "RTX 4090": 82.6e12,
    "V100": 15.7e12,
    "T4": 8.1e12,
}


def peak_flops(hardware: str, precision: str) -> float | None:
    """Return the peak FLOP/s of a device by its name, or None when it is not known."""
    table = _SINGLE if precision == "fp32" else _HALF
    return next((rate for name, rate in table.items() if name in hardware), None)
