"""What a ``tracker`` component hands to the core so that a run can be used from its service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class TrackedCheckpoint:
    """A checkpoint that a tracker's service keeps: its ``step``, and whether it was the best."""

    step: int
    is_best: bool = False


class TrackedRun(Protocol):
    """One run as a tracker's service has it.

    Attributes:
        run_id: the run's id here, as its events said.
        attempt: the attempt that was tracked.
        link: where it can be seen, or how messages may name it; without credentials.
    """

    run_id: str
    attempt: int
    link: str

    def recipe(self) -> str | None:
        """Return the resolved recipe as TOML, None when the service does not have it."""
        ...

    def checkpoints(self) -> Sequence[TrackedCheckpoint]:
        """Return the checkpoints that can be fetched, in any order."""
        ...

    def fetch(self, step: int, target: Path) -> None:
        """Download the files of the checkpoint of ``step`` into ``target``, which does not exist.

        The core verifies them; whatever is wrong or missing is its to tell.
        """
        ...
