"""The ledger of a sweep: every attempt at every trial, in an Optuna study that many may write.

The storage numbers the attempts as they are written, whoever writes them, and each is written in
one piece: nothing is ever changed by two. To work on a trial is to write the next attempt at it;
when two processes do so at once, the one with the lower number has it, and both see that. An
attempt ends with one more write, of its result.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmforge.sweeps.liveness import this_process
from llmforge.sweeps.trials import Attempt, Result, Trial

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

_STOP = "stop"
_ABOUT = "about"


class Ledger:
    """The attempts of one sweep.

    Args:
        storage: where they are kept.
        name: the study's name, which is the sweep's id.
        direction: of the objective, for others who read the study.
    """

    def __init__(self, storage: BaseStorage, name: str, *, direction: str = "minimize") -> None:
        from optuna.exceptions import DuplicatedStudyError
        from optuna.study import StudyDirection

        self._storage = storage
        self._ended: dict[int, Attempt] = {}
        try:
            self._study = storage.get_study_id_from_name(name)
        except KeyError:
            try:
                self._study = storage.create_new_study([StudyDirection[direction.upper()]], name)
            except DuplicatedStudyError:  # another process was faster
                self._study = storage.get_study_id_from_name(name)

    # Reading ---------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """Return every trial in the order of points and their repeats."""
        return self._folded(self._entries())

    def attempt(self, entry: int) -> tuple[Trial, Attempt]:
        """Return an attempt by its id, and the trial it is at.

        Raises:
            KeyError: there is none, or it is another process's.
        """
        for trial in self.trials():
            for attempt in trial.attempts:
                if attempt.entry == entry:
                    return trial, attempt
        raise KeyError(entry)

    # Writing ---------------------------------------------------------------------------------

    def begin(
        self,
        number: int,
        repeat: int,
        attempt: int,
        parameters: Mapping[str, Any],
        *,
        prunable: bool = True,
    ) -> int | None:
        """Take an attempt at a trial; return its id, or None when another process has taken it."""
        token = secrets.token_hex(8)
        self._write(
            number, repeat, attempt, parameters, token=token, prunable=prunable, result=None
        )
        for trial in self.trials():
            if (trial.number, trial.repeat) == (number, repeat):
                won = trial.attempts[attempt]
                return won.entry if won.token == token else None
        return None

    def requeue(self, trial: Trial, *, prunable: bool, reason: str) -> None:
        """Let an ended trial continue; ``prunable`` says whether it may be pruned then."""
        self._write(
            trial.number,
            trial.repeat,
            len(trial.attempts),
            trial.parameters,
            token=secrets.token_hex(8),
            prunable=prunable,
            result=Result(outcome="requeued", reason=reason),
        )

    def set_run(self, entry: int, *, run_id: str, identity: str) -> None:
        """Note which run an attempt is about."""
        self._storage.set_trial_user_attr(entry, "run", {"id": run_id, "identity": identity})

    def beat(self, entry: int) -> None:
        """Give a sign of life."""
        self._storage.set_trial_user_attr(entry, "beat", time.time())

    def report(self, entry: int, step: int, value: float) -> None:
        """Note the objective at a step."""
        self._storage.set_trial_intermediate_value(entry, step, value)

    def set_pruned(self, entry: int, reason: str) -> None:
        """Note why an attempt was asked to stop early; it has yet to save and end."""
        self._storage.set_trial_user_attr(entry, "pruned", reason)

    def finish(self, entry: int, result: Result) -> None:
        """Note how an attempt ended; this one write decides."""
        self._storage.set_trial_user_attr(entry, "result", result.to_json())
        self._close(entry, result)

    def settle(self) -> None:
        """Close, for others who read the study, what a killed process left open or never got."""
        entries = self._entries()  # read once: what is written from now on is nobody's leftover
        valid = {item.entry: item for trial in self._folded(entries) for item in trial.attempts}
        for entry in entries:
            if entry.state.is_finished():
                continue
            attempt = valid.get(entry._trial_id)
            if attempt is None:
                self._close(entry._trial_id, Result(outcome="requeued"))
            elif attempt.result is not None:
                self._close(entry._trial_id, attempt.result)

    # The sweep as a whole ----------------------------------------------------------------------

    @property
    def about(self) -> dict[str, Any]:
        """What was noted about the sweep as a whole."""
        return dict(self._storage.get_study_user_attrs(self._study).get(_ABOUT, {}))

    def describe(self, about: Mapping[str, Any]) -> None:
        """Note something about the sweep as a whole."""
        self._storage.set_study_user_attr(self._study, _ABOUT, dict(about))

    @property
    def stopped(self) -> str:
        """Why every worker is to stop, or nothing."""
        return str(self._storage.get_study_user_attrs(self._study).get(_STOP) or "")

    def stop(self, reason: str) -> None:
        """Ask every worker to stop, wherever it runs; an empty reason lets them work again."""
        self._storage.set_study_user_attr(self._study, _STOP, reason)

    # -------------------------------------------------------------------------------------------

    def _entries(self) -> list[FrozenTrial]:
        """Return what was written, in the order in which it counts."""
        every = self._storage.get_all_trials(self._study, deepcopy=False)
        return [entry for entry in every if "trial" in entry.user_attrs]

    def _folded(self, entries: Sequence[FrozenTrial]) -> list[Trial]:
        """Return the trials that ``entries`` are attempts at."""
        attempts: dict[tuple[int, int], list[Attempt]] = {}
        parameters: dict[int, Mapping[str, Any]] = {}
        for entry in entries:
            written = entry.user_attrs
            found = attempts.setdefault((written["trial"], written["repeat"]), [])
            if written["attempt"] == len(found):  # else another process was faster
                found.append(self._attempt(entry))
                parameters.setdefault(written["trial"], written["parameters"])
        return [
            Trial(number=number, repeat=repeat, parameters=parameters[number], attempts=tuple(own))
            for (number, repeat), own in sorted(attempts.items())
            if own
        ]

    def _attempt(self, entry: FrozenTrial) -> Attempt:
        """Return what an entry says; an attempt that has ended is read once."""
        known = self._ended.get(entry._trial_id)
        if known is not None:
            return known
        attempt = _attempt(entry)
        if attempt.result is not None:
            self._ended[attempt.entry] = attempt
        return attempt

    def _write(
        self,
        number: int,
        repeat: int,
        attempt: int,
        parameters: Mapping[str, Any],
        *,
        token: str,
        prunable: bool,
        result: Result | None,
    ) -> None:
        from optuna.trial import TrialState, create_trial

        attributes: dict[str, Any] = {
            "trial": number,
            "repeat": repeat,
            "attempt": attempt,
            "parameters": dict(parameters),
            "token": token,
            "prunable": prunable,
            "worker": this_process(),
            "beat": time.time(),
        }
        if result is not None:
            attributes["result"] = result.to_json()
        state = TrialState.RUNNING if result is None else TrialState.FAIL
        self._storage.create_new_trial(
            self._study, template_trial=create_trial(state=state, user_attrs=attributes)
        )

    def _close(self, entry: int, result: Result) -> None:
        """Give Optuna's own trial the state that says the most; ours is decided already."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        states = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        values = [result.value] if result.value is not None else None
        state = states.get(result.outcome, TrialState.FAIL)
        if values is None and state is TrialState.COMPLETE:
            state = TrialState.FAIL
        try:
            self._storage.set_trial_state_values(entry, state, values)
        except UpdateFinishedTrialError:
            return  # another process has closed it


def _attempt(entry: FrozenTrial) -> Attempt:
    written = entry.user_attrs
    result = written.get("result")
    return Attempt(
        entry=entry._trial_id,
        number=written["attempt"],
        token=written["token"],
        worker=written["worker"],
        prunable=written["prunable"],
        began=entry.datetime_start.timestamp() if entry.datetime_start else 0.0,
        beat=written["beat"],
        run=written.get("run", {}),
        curve=dict(entry.intermediate_values),
        pruned=written.get("pruned", ""),
        result=None if result is None else Result(**result),
    )
