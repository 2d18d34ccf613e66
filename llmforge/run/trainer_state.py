"""What the loop must remember to resume exactly where it was; kept in ``trainer.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmforge.errors import CheckpointError

FORMAT_VERSION = 1


@dataclass
class Best:
    """The best value of the deciding metric so far, and the step it was measured at."""

    metric: str
    value: float
    step: int


@dataclass
class TrainerState:
    """Progress of a run at a step boundary.

    Attributes:
        step: optimizer steps taken.
        sequences: global sample count; where in the data order the next step begins.
        recent_losses: mean loss per token of each of the last ``train.log_every`` steps, in nats.
        epoch: loss sum and targets of the current epoch.
        grad_norm: of the last step.
        learning_rate: of the last step.
        best: best evaluation so far.
        stale_evaluations: evaluations since the best one.
        last_evaluation: values of the newest evaluation.
        boundary_done: False when logging or evaluation of ``step`` is still to be done.
        row: the metrics row of ``step`` when it has one; written and told again on resume.
        samples_due: True when samples of ``step`` are still to be made.
        finished: ``{"state", "reason"}`` once the run needs no further step.
        components: state of components by name.
    """

    step: int = 0
    sequences: int = 0
    recent_losses: list[float] = field(default_factory=list)
    epoch: dict[str, float] = field(default_factory=lambda: {"loss_sum": 0.0, "targets": 0})
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    best: Best | None = None
    stale_evaluations: int = 0
    last_evaluation: dict[str, float] = field(default_factory=dict)
    boundary_done: bool = True
    row: dict[str, Any] | None = None
    samples_due: bool = False
    finished: dict[str, str] | None = None
    components: dict[str, Any] = field(default_factory=dict)

    def reopen(self, *, until: int) -> None:
        """Let a finished run continue to the step ``until``, with fresh patience."""
        if self.finished is not None and self.step < until:
            self.finished, self.stale_evaluations = None, 0

    def to_json(self, engine_values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of ``trainer.json``; ``engine_values`` is the engine's part."""
        return {
            "format_version": FORMAT_VERSION,
            **dataclasses.asdict(self),
            "engine": dict(engine_values),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> TrainerState:
        """Read what :meth:`to_json` made.

        Raises:
            CheckpointError: it is of a newer format.
        """
        if body.get("format_version", 0) > FORMAT_VERSION:
            raise CheckpointError(
                f"trainer.json has format {body['format_version']}, newer than this llmforge",
                remedy="upgrade llmforge",
            )
        names = {item.name for item in dataclasses.fields(cls)}
        values = {name: value for name, value in body.items() if name in names}
        best = values.pop("best", None)
        return cls(**values, best=None if best is None else Best(**best))
