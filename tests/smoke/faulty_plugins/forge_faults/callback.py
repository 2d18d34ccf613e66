"""The callback ``counter``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmforge import Component, RunContext, events, hookimpl


class Counter(Component, kind="callback"):
    """Counts the metrics events of a run, keeps the count in checkpoints, and logs it."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._count = 0

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Count."""
        del event
        self._count += 1

    @hookimpl
    def forge_extra_metrics(self, run: RunContext, step: int) -> Mapping[str, float]:
        """Return the count as a metric, so that a wrong one shows in ``metrics.jsonl``."""
        del run, step
        return {"counter/rows": float(self._count)}

    @hookimpl
    def forge_checkpoint_state(self, run: RunContext) -> Mapping[str, Any]:
        """Keep the count."""
        del run
        return {"count": self._count}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take the count back."""
        self._count = int(state["count"])
