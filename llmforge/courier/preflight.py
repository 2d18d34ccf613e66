"""Asking every tracker whether it is ready; one that fails or hangs costs the others nothing."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmforge.component import Component
from llmforge.errors import Problem
from llmforge.interfaces import RunContext
from llmforge.plugins import build_manager

PREFLIGHT_SECONDS = 20.0


@dataclass
class Readiness:
    """What the trackers' preflight found.

    Attributes:
        problems: what stops the run before step 0.
        notices: what the user should know; the run starts nevertheless.
    """

    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def ask_trackers(
    trackers: Sequence[Component],
    run: RunContext,
    *,
    strict: bool,
    seconds: float = PREFLIGHT_SECONDS,
) -> Readiness:
    """Call ``forge_preflight`` of each tracker in a thread of its own.

    Args:
        trackers: instances; the packages they need are looked for first.
        run: the run; what a tracker tells ``run.notice`` becomes a notice.
        strict: a preflight that raises or hangs is a problem and not a notice.
        seconds: the bound for all of them together.
    """
    problems = [problem for tracker in trackers for problem in tracker.missing_packages()]
    if problems:
        return Readiness(problems)
    manager = build_manager(trackers)
    asked = []
    for tracker in trackers:
        others = [other for other in trackers if other is not tracker]
        caller = manager.subset_hook_caller("forge_preflight", remove_plugins=others)
        asked.append(_Question(tracker.name, caller, run))
    deadline = time.monotonic() + seconds
    for question in asked:
        question.thread.join(max(0.0, deadline - time.monotonic()))
    found = Readiness()
    for question in asked:
        found.problems += question.problems
        found.notices += question.notices
        failure = question.failure
        if question.thread.is_alive():
            failure = f"it did not answer within {seconds:.0f} s"
        if failure and strict:
            found.problems.append(Problem(key=f"tracker.{question.name}", message=failure))
        elif failure:
            found.notices.append(
                f"tracker {question.name} is not ready: {failure}; its events wait in the journal"
            )
    return found


class _Question:
    """One tracker's preflight, under way in a thread."""

    def __init__(
        self, name: str, caller: Callable[..., list[list[Problem]]], run: RunContext
    ) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.notices: list[str] = []
        self.failure = ""
        self._caller = caller
        self._run = dataclasses.replace(run, notice=self.notices.append)
        self.thread = threading.Thread(target=self._ask, name=f"preflight-{name}", daemon=True)
        self.thread.start()

    def _ask(self) -> None:
        try:
            for answer in self._caller(run=self._run):
                self.problems += answer
        except (Exception, SystemExit) as error:  # a tracker may raise anything; it is reported
            self.failure = f"{type(error).__name__}: {error}"
