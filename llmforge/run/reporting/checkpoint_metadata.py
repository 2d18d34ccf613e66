"""``metadata.json`` of a checkpoint: what a person wants to know of it without the run."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from llmforge import __version__
from llmforge.interfaces import Resolution
from llmforge.run.reporting.metrics_files import LossHistory
from llmforge.run.trainer_state import TrainerState

_TREND_POINTS = 10


class Describer:
    """Makes the metadata of a run's checkpoints.

    Args:
        run_id: the run.
        resolution: device and precision.
        history: losses so far.
        epoch: passes over the data at a sequence count.
        context: tokens per sequence.
        data: description and sizes of the data.
        files: which files of the data are used up at a sequence count.
        model: where a model came from that was not made in the run, and its architecture.
    """

    def __init__(
        self,
        run_id: str,
        *,
        resolution: Resolution,
        history: LossHistory,
        epoch: Callable[[int], float],
        context: int,
        data: Mapping[str, Any],
        files: Callable[[int], Mapping[str, Any]],
        model: Mapping[str, Any] | None = None,
    ) -> None:
        self._run_id = run_id
        self._resolution = resolution
        self._history = history
        self._epoch = epoch
        self._context = context
        self._data = dict(data)
        self._files = files
        self._model = {"model": dict(model)} if model else {}
        self._versions = {
            "llmforge": __version__,
            **{name: version(name) for name in ("torch", "safetensors")},
        }

    def __call__(self, state: TrainerState) -> dict[str, Any]:
        """Return the metadata at ``state``."""
        points = self._history.points()
        losses = points["train/loss"]
        row = state.row or {}
        return {
            "run_id": self._run_id,
            "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "step": state.step,
            "epoch": round(self._epoch(state.sequences), 6),
            "tokens_seen": state.sequences * self._context,
            "train_loss": row.get("train/loss", losses[-1] if losses else None),
            "evaluation": state.last_evaluation,
            "best": None if state.best is None else vars(state.best),
            "steps_since_best": None if state.best is None else state.step - state.best.step,
            "trend": trend(losses),
            "history": points,
            **self._files(state.sequences),
            "data": self._data,
            **self._model,
            "device": self._resolution.device,
            "device_count": 1,
            "hardware": self._resolution.hardware,
            "precision": self._resolution.precision,
            "compiled": self._resolution.compile,
            "versions": self._versions,
        }


def trend(losses: list[float]) -> str:
    """Return ``improving``, ``flat`` or ``worsening`` by the last points against those before."""
    recent = losses[-_TREND_POINTS:]
    before = losses[-2 * _TREND_POINTS : -_TREND_POINTS]
    if not before:
        return "unknown"
    change = sum(recent) / len(recent) - sum(before) / len(before)
    tolerance = 0.005 * abs(sum(before) / len(before))
    if abs(change) <= tolerance:
        return "flat"
    return "improving" if change < 0 else "worsening"
