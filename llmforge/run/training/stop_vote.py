"""Stopping all ranks at the same step, whichever of them was asked to or has a reason to."""

from __future__ import annotations

import signal
from collections.abc import Callable

from llmforge.distributed import Team
from llmforge.errors import ForgeError
from llmforge.run.signals import StopSignals

_ASKED, _FAILED = 500, 1000
"""Wishes to stop that are no signal's number: asked for within the process, and a failure."""


class Stopping:
    """What the loop asks before every step and every evaluated batch.

    On several ranks a wish takes effect one question later, at all of them: nobody waits for the
    others' answers.

    Args:
        team: all ranks; they ask equally often.
        signals: of this process. One that another rank got is noted there too.
        failure: returns what ends the run at this rank once it is saved, or None.

    Attributes:
        failed: whether a failure is what was agreed on.
        failure: this rank's own; None where another's ends the run.
    """

    def __init__(
        self, team: Team, *, signals: StopSignals, failure: Callable[[], ForgeError | None]
    ) -> None:
        self._vote = team.vote()
        self._signals = signals
        self._find_failure = failure
        self.failed = False
        self.failure: ForgeError | None = None

    def before_step(self) -> bool:
        """Return whether all ranks stop here."""
        wish = self._signal()
        if not wish:
            self.failure = self.failure or self._find_failure()
            wish = _FAILED if self.failure is not None else 0
        agreed = self._vote.ask(wish)
        self.failed = agreed == _FAILED
        self._note(agreed)
        return agreed > 0

    def before_batch(self) -> bool:
        """Return whether all ranks break off an evaluation here; a failure lets it finish."""
        agreed = self._vote.ask(self._signal())
        self._note(agreed)
        return agreed not in (0, _FAILED)

    def close(self) -> None:
        """Finish the vote under way; called by all ranks when they take no more steps."""
        self._vote.close()

    def _signal(self) -> int:
        name = self._signals.requested
        if name is None:
            return 0
        return int(signal.Signals.__members__.get(name, _ASKED))

    def _note(self, agreed: int) -> None:
        if agreed not in (0, _FAILED):
            name = signal.Signals(agreed).name if agreed != _ASKED else "another process"
            self._signals.request(name)
