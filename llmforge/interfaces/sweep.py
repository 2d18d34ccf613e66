"""What a ``sweep`` component hands to the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Sweeper(Protocol):
    """Proposes the parameters of trials; everything it knows comes from the history."""

    def propose(self) -> Mapping[str, Any] | None:
        """Return the parameters of the next trial by recipe key, or None when there is none."""
        ...

    def report(self, trial_id: str, step: int, value: float) -> bool:
        """Take a trial's intermediate ``value``; return whether the trial should be pruned."""
        ...
