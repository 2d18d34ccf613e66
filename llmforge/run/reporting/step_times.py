"""Where the time of traced steps went: shares of their parts, and the operators that took most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_ORDER = ("data", "forward", "backward", "optimizer", "checkpoint", "tracker and journal")
_TOP = 10
_OTHER = "other"
_NOT_OPERATORS = ("step ", "backward", "ProfilerStep", "autograd::engine", "Optimizer.")
"""Beginnings of events that contain operators or mark the timeline."""


def step_times(seconds: float, parts: Mapping[str, float], *, steps: int) -> dict[str, Any]:
    """Return milliseconds a step and the share of each part; what no part counts is ``other``.

    Args:
        seconds: of all traced steps together.
        parts: seconds of each part.
        steps: how many were traced.
    """
    known = [*_ORDER, *sorted(set(parts) - {*_ORDER})]
    spent = {part: parts.get(part, 0.0) for part in known}
    spent[_OTHER] = max(0.0, seconds - sum(spent.values()))
    return {
        "step_ms": round(seconds / steps * 1e3, 3),
        "parts": {
            part: {"ms": round(one / steps * 1e3, 3), "share": round(one / seconds, 4)}
            for part, one in spent.items()
        },
    }


def operators(
    events: Iterable[Any], *, steps: int, seconds: float, on_device: bool
) -> list[dict[str, Any]]:
    """Return the operators that took most time themselves, without those they call.

    Args:
        events: averages of PyTorch's profiler by operator.
        steps: how many were traced.
        seconds: of these steps.
        on_device: whether the time on the GPU counts, instead of the processor's.
    """
    found = []
    for event in events:
        micros = event.self_device_time_total if on_device else event.self_cpu_time_total
        if micros > 0 and not event.key.startswith(_NOT_OPERATORS):
            found.append((micros, event))
    found.sort(key=lambda pair: -pair[0])
    return [
        {
            "name": event.key,
            "ms": round(micros / 1e3 / steps, 3),
            "share": round(micros / 1e6 / seconds, 4),
            "calls": round(event.count / steps, 1),
        }
        for micros, event in found[:_TOP]
    ]


def table_lines(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures as lines for a terminal."""
    steps: Sequence[int] = figures["steps"]
    rows = [(part, one["ms"], one["share"], "") for part, one in figures["parts"].items()]
    rows.append(("step", figures["step_ms"], 1.0, ""))
    top = [
        (one["name"], one["ms"], one["share"], f"{one['calls']:g} calls")
        for one in figures["operators"]
    ]
    return [
        f"steps {steps[0]} to {steps[-1]}, a step on average (rank {figures['rank']}):",
        *_aligned(rows),
        "operators that took most, without those they call:",
        *_aligned(top),
    ]


def _aligned(rows: Sequence[tuple[str, float, float, str]]) -> list[str]:
    width = max((len(name) for name, *_ in rows), default=0)
    return [
        f"  {name:<{width}}  {ms:>10,.2f} ms  {share:>6.1%}  {note}".rstrip()
        for name, ms, share, note in rows
    ]
