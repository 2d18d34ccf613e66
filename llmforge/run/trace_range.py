"""Which steps are traced: ``--trace-steps 10:15``, checked before anything is trained."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmforge.errors import UsageError

OPTION = "--trace-steps"
_MOST = 100  # a trace grows by megabytes a step, and viewers load it whole


@dataclass(frozen=True)
class TraceRange:
    """Steps of a run, counted from 1 as everywhere, the last one included.

    Attributes:
        first: the first step that is traced.
        last: the last one.
    """

    first: int
    last: int

    def __contains__(self, step: int) -> bool:
        return self.first <= step <= self.last

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"

    def require_ahead(self, *, taken: int, last_step: int, stop_at: int | None = None) -> None:
        """Refuse a range none of whose steps this start takes.

        Args:
            taken: steps that were taken before.
            last_step: where the run ends.
            stop_at: where this start ends, if earlier.

        Raises:
            UsageError: they are done already, or never come.
        """
        if self.first > last_step:
            raise UsageError(
                f"{OPTION} {self}: the run ends with step {last_step}",
                remedy=f"give steps up to {last_step}",
            )
        if stop_at is not None and self.first > stop_at:
            raise UsageError(
                f"{OPTION} {self}: this start ends with step {stop_at} (train.stop_at)",
                remedy=f"give steps up to {stop_at}, or a later stop_at",
            )
        self.require_not_taken(taken)

    def require_not_taken(self, taken: int) -> None:
        """Refuse a range whose last step is among the first ``taken`` ones.

        Raises:
            UsageError: it is.
        """
        if self.last <= taken:
            raise UsageError(
                f"{OPTION} {self}: these steps were taken already, the next one is {taken + 1}",
                remedy=f"give steps from {taken + 1}, or go back with --resume RUN@STEP",
            )

    def require_unfinished(self, done: object | None, *, run_id: str) -> None:
        """Refuse to trace a run that is complete: its command trains nothing.

        Raises:
            UsageError: ``done``, its completion, is not None.
        """
        if done is not None:
            raise UsageError(
                f"{OPTION} {self}: run {run_id} is completed, so there are no steps to trace",
                remedy=f"'forge runs clear {run_id}' lets the command train it again",
            )


def parse_range(text: str | None) -> TraceRange | None:
    """Return the range that ``FIRST:LAST`` or a single step names; None for None.

    Raises:
        UsageError: it is neither, or longer than a trace can be.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,12})(?::([0-9]{1,12}))?", text.strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last:
        raise UsageError(
            f"{OPTION} '{text}' is not a range of steps",
            remedy="write FIRST:LAST, for example 10:15; the first step of a run is 1",
        )
    if last - first >= _MOST:
        raise UsageError(
            f"{OPTION} {text}: a trace of {last - first + 1} steps is too large to be looked at",
            remedy=f"trace at most {_MOST}; five show as much",
        )
    return TraceRange(first, last)
