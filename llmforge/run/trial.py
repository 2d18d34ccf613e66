"""What the runner needs to know of a run that is a trial of a sweep."""

from __future__ import annotations

from typing import Protocol

from llmforge.component import Component
from llmforge.events import TrialEnded, TrialStarted


class TrialLink(Protocol):
    """Ties a run to its sweep.

    Attributes:
        sweep_id: the sweep.
        watcher: a callback that hears the run's events beside the recipe's own.
    """

    sweep_id: str
    watcher: Component

    def started(self, run_id: str) -> TrialStarted:
        """Return the event that follows the run's start."""
        ...

    def ended(self, run_id: str, state: str) -> TrialEnded:
        """Return the event that precedes the run's end in ``state``."""
        ...
