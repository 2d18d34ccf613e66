"""How a start of a run ends, and what is written then: metrics, completion, goodput."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.errors import ForgeError
from llmforge.run.plan import Plan
from llmforge.run.trainer_state import TrainerState
from llmforge.run_root import root_option
from llmforge.rundir import Completion, RunRecord


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the steps ended, on all ranks at the same one.

    Attributes:
        state: of ``run.json``.
        reason: in words.
        error: what ``outputs.failure`` returned on this rank, for the caller to raise.
    """

    state: str
    reason: str
    error: ForgeError | None = None


def final_metrics(
    record: RunRecord, state: TrainerState, ending: Ending, *, tokens_seen: int
) -> dict[str, Any]:
    """Return the content of ``metrics.json``: the newest value of each metric, and the best."""
    return {
        **with_best(record.metrics, state),
        "step": state.step,
        "state": ending.state,
        "reason": ending.reason,
        "tokens_seen": tokens_seen,
    }


def with_best(metrics: Mapping[str, Any], state: TrainerState) -> dict[str, Any]:
    """Return ``metrics`` with the best evaluation as ``state`` knows it."""
    return {**metrics, "best": None if state.best is None else dataclasses.asdict(state.best)}


def completion(
    plan: Plan,
    record: RunRecord,
    state: TrainerState,
    ending: Ending,
    metrics: Mapping[str, Any],
) -> Completion:
    """Return the record that lets the same command be skipped from now on."""
    directory = plan.directory
    artifacts = {
        "checkpoints": directory.checkpoints,
        "metrics": directory.summary,
        "samples": directory.samples,
        "examples": directory.examples,
        "plots": directory.plots,
    }
    return Completion(
        run_id=plan.run_id,
        attempt=record.attempt,
        identity=plan.identity.hash,
        state=ending.state,
        reason=ending.reason,
        steps=state.step,
        final_loss=metrics.get("val/loss", metrics.get("train/loss")),
        best_loss=None if state.best is None else state.best.value,
        best_step=None if state.best is None else state.best.step,
        started=record.created,
        ended=time.time(),
        directory=str(directory.path.absolute()),
        artifacts={name: str(path) for name, path in artifacts.items() if path.exists()},
        next_command=f"forge generate {plan.run_id}{root_option(plan.root.absolute())}",
        epochs=float(metrics.get("epoch", 0.0)),
        keys=dict(plan.identity.keys),
    )


def goodput(
    earlier: Mapping[str, float], *, wall: float, compute: float, steps: int, step: int
) -> dict[str, float]:
    """Return the run's goodput: the share of wall time spent on steps that counted.

    Args:
        earlier: of the starts before this one.
        wall: seconds this start took.
        compute: seconds of it spent in steps.
        steps: steps it computed, those a resume repeated included.
        step: the step the run is at.
    """
    totals = {
        name: round(earlier.get(name, 0.0) + value, 3)
        for name, value in (
            ("wall_seconds", wall),
            ("compute_seconds", compute),
            ("steps_computed", float(steps)),
        )
    }
    counted = min(1.0, step / max(1.0, totals["steps_computed"]))
    share = totals["compute_seconds"] * counted / max(1e-9, totals["wall_seconds"])
    return {**totals, "share": round(share, 4)}
