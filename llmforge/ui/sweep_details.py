"""Sweeps as plain values; their trials are read, and nothing is opened that would be made."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from llmforge.errors import ForgeError, RunError
from llmforge.redaction import redact_values
from llmforge.sweeps.sweep import Sweep, SweepDirectory, find_sweeps, load_sweep
from llmforge.sweeps.trials import Trial


class SweepDetails:
    """The sweeps below a root; one that did not change is read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}

    def all(self) -> list[dict[str, Any]]:
        """Return the sweeps there are, the newest first."""
        found = find_sweeps(self._root)
        found.sort(key=lambda item: item.record.stat().st_mtime, reverse=True)
        return [{"id": item.id, "changed": _stamp(item)[0] / 1e9} for item in found]

    def one(self, sweep_id: str) -> dict[str, Any]:
        """Return a sweep with its trials.

        Raises:
            ForgeError: there is no such sweep, or it cannot be read.
        """
        known = {item.id: item for item in find_sweeps(self._root)}
        if sweep_id not in known:
            raise RunError(f"no sweep '{sweep_id[:200]}' in {self._root}")
        directory = known[sweep_id]
        with self._lock:
            stamp = _stamp(directory)
            before, body = self._known.get(sweep_id, (None, {}))
            if before != stamp or not directory.journal.exists():
                body = _read(directory)
                self._known[sweep_id] = (stamp, body)
            return body


def _read(directory: SweepDirectory) -> dict[str, Any]:
    from llmforge.sweeps.summary import as_row, summarize

    sweep = load_sweep(directory)
    keys, space = sweep.recipe.sweep, sweep.space
    trials = _trials(sweep)
    summary = summarize(trials, space, direction=keys.direction)
    best = summary.best_trial
    body = {
        "id": sweep.id,
        "metric": keys.metric,
        "direction": keys.direction,
        "max_trials": keys.max_trials,
        "states": summary.states,
        "seconds": summary.seconds,
        "best": None if best is None else {"number": best.number, "repeat": best.repeat},
        "parameters": list(dict.fromkeys(name for item in trials for name in item.parameters)),
        "trials": [as_row(trial, space) for trial in trials],
    }
    clean: dict[str, Any] = redact_values(body)
    return clean


def _trials(sweep: Sweep) -> list[Trial]:
    """Return the trials; a ledger that is not there yet has none, and is not made."""
    from llmforge.sweeps.ledger import Ledger
    from llmforge.sweeps.trial_storage import open_storage

    journal, study = sweep.directory.journal, sweep.recipe.sweep.study
    if study is None and not journal.exists():
        return []
    try:
        storage = open_storage(study, journal=journal)
        storage.get_study_id_from_name(sweep.id)
    except KeyError:
        return []
    except OSError as error:
        raise ForgeError(f"{journal} cannot be read: {error.strerror}") from error
    return Ledger(storage, sweep.id).trials()


def _stamp(directory: SweepDirectory) -> tuple[int, int]:
    path = directory.journal if directory.journal.exists() else directory.record
    status = path.stat()
    return status.st_mtime_ns, status.st_size
