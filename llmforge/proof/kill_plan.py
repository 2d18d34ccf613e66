"""When a run is to be killed: drawn from the seed among the instants the reference run had."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmforge.proof.phases import (
    EVALUATING,
    FINISHING,
    PHASES,
    SAVING,
    STARTING,
    STEPPING,
    UPLOADING,
    Phases,
)

_FIRST = (SAVING, UPLOADING, EVALUATING)
"""Phases in which something is half done; a proof has these before any other."""

_WITHIN = 0.6
"""Share of a phase in which kills are: stopping a process takes a moment, too."""


@dataclass
class Timeline:
    """When the reference run did what, as far as looking at it showed.

    Attributes:
        seen: by phase and step, when it was first and last seen, in seconds.
    """

    seen: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)

    def add(self, phases: Phases) -> None:
        """Note what the run is doing now."""
        now = time.monotonic()
        for phase, step in phases.items():
            first, _ = self.seen.setdefault(phase, {}).get(step, (now, now))
            self.seen[phase][step] = (first, now)

    def seconds(self, phase: str, step: int) -> float:
        """Return how long ``phase`` lasted at ``step``, 0 where that was not seen."""
        first, last = self.seen.get(phase, {}).get(step, (0.0, 0.0))
        return last - first


@dataclass(frozen=True)
class Target:
    """An instant to kill at: in ``phase``, at ``step`` or later, after ``delay`` seconds of it."""

    phase: str
    step: int
    delay: float

    def reached(self, phases: Phases) -> bool:
        """Return whether a process that does ``phases`` is there."""
        return phases.get(self.phase, -1) >= self.step


def plan_kills(timeline: Timeline, *, kills: int, draw: random.Random) -> list[Target]:
    """Return where to kill, in the order in which a run gets there."""
    targets = []
    for phase in _choose(timeline, kills=kills, draw=draw):
        step = draw.choice(sorted(timeline.seen[phase]))
        targets.append(Target(phase, step, _WITHIN * draw.random() * timeline.seconds(phase, step)))
    starts = [target for target in targets if target.phase == STARTING]
    others = sorted(
        (target for target in targets if target.phase != STARTING),
        key=lambda target: (target.phase == FINISHING, target.step, PHASES.index(target.phase)),
    )
    for start in starts:  # every start of the run has one
        others.insert(draw.randint(0, len(others)), start)
    return others


def _choose(timeline: Timeline, *, kills: int, draw: random.Random) -> Sequence[str]:
    """Return the phases to kill in: each once, the half-done ones first, then any of them."""
    known = [phase for phase in PHASES if timeline.seen.get(phase)]
    first = [phase for phase in known if phase in _FIRST]
    rest = [phase for phase in known if phase not in _FIRST]
    draw.shuffle(first)
    draw.shuffle(rest)
    chosen = [*first, *rest]
    often = [phase for phase in known if phase in (*_FIRST, STEPPING)] or known
    while len(chosen) < kills:
        chosen.append(draw.choice(often))
    return chosen[:kills]
