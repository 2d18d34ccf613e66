"""Where the results of the step loop go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.errors import ForgeError
from llmforge.events import Event
from llmforge.run.trainer_state import TrainerState


@dataclass(frozen=True, kw_only=True)
class LoopOutputs:
    """Where the loop's results go; all return at once.

    Attributes:
        row: takes the deterministic row and the timing row of a step.
        event: takes an event for callbacks and the courier.
        samples: generates and records samples at a step; None when there is nothing to sample.
        micro_batch: told the micro-batch that turned out to fit; keeps it for the next start.
        evaluation_rows: the same for the windows that are evaluated at once.
        extra_metrics: asks components for further values at a step.
        stop_reason: asks components whether to stop.
        failure: returns what ends the run once it is saved, such as a tracker's failure, or None.
        secure: waits until the checkpoint of a step is in storage; None, on all ranks, when
            nothing waits.
        component_state: asks components for the state to keep.
        metadata: makes a checkpoint's ``metadata.json`` from the state.
    """

    row: Callable[[Mapping[str, Any], Mapping[str, Any]], None]
    event: Callable[[Event], None]
    samples: Callable[[int], object] | None
    micro_batch: Callable[[int], None]
    evaluation_rows: Callable[[int], None]
    extra_metrics: Callable[[int], Mapping[str, float]]
    stop_reason: Callable[[int], str | None]
    failure: Callable[[], ForgeError | None]
    secure: Callable[[int], None] | None
    component_state: Callable[[], dict[str, Any]]
    metadata: Callable[[TrainerState], dict[str, Any]]
