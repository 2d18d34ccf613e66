"""Getting over a study's database that does not answer for a while."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError

from llmforge.errors import RunError

_T = TypeVar("_T")
log = logging.getLogger("llmforge.sweeps")

PATIENCE_SECONDS = 300.0
_OUTAGES = (OperationalError, InterfaceError, PendingRollbackError)
"""The last is what using a session says whose connection broke a moment before."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0


def endure(call: Callable[[], _T], *, name: str, patience: float = PATIENCE_SECONDS) -> _T:
    """Call until the database answers; ``name`` is its name for people.

    Raises:
        RunError: it has not answered for ``patience`` seconds.
    """
    began, pause = time.monotonic(), _FIRST_PAUSE
    while True:
        try:
            return call()
        except (StorageInternalError, *_OUTAGES) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) else error
            if not isinstance(cause, _OUTAGES):
                raise
            why = str(cause).splitlines()[0]
        if time.monotonic() - began > patience:
            raise RunError(
                f"sweep.study: {name} has not answered for {patience:.0f} s: {why}",
                remedy="once it is back the same command resumes it; trials keep what they saved",
            )
        if pause == _FIRST_PAUSE:
            log.warning("sweep.study: %s does not answer (%s); trying again", name, why)
        time.sleep(random.uniform(pause / 2, pause))
        pause = min(2 * pause, _LONGEST_PAUSE)


class Enduring:
    """A storage of Optuna whose calls wait until the database answers again.

    Repeating a call that had reached the database does no harm: attributes are written once more
    with the same value, and of two equal attempts at a trial the first counts
    (:mod:`llmforge.sweeps.ledger`).

    Args:
        storage: what to call.
        name: of the database, for people.
        patience: seconds after which a call gives up.
    """

    def __init__(self, storage: object, *, name: str, patience: float = PATIENCE_SECONDS) -> None:
        self._storage = storage
        self._name = name
        self._patience = patience

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        call = partial(function, *args, **options)
        return endure(call, name=self._name, patience=self._patience)
