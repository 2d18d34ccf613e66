"""What a checkpoint tells a person about itself."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from llmforge.interfaces import Resolution
from llmforge.run.reporting.checkpoint_metadata import Describer, trend
from llmforge.run.reporting.metrics_files import LossHistory
from llmforge.run.trainer_state import Best, TrainerState

RESOLUTION = Resolution(device="cpu", precision="bf16", compile=False, hardware="a processor")


def describer(losses: list[float]) -> Describer:
    history = LossHistory()
    for step, loss in enumerate(losses, start=1):
        history.add({"step": step, "train/loss": loss, "lr": 1e-3 / step})
    return Describer(
        "run-1",
        resolution=RESOLUTION,
        history=history,
        epoch=lambda sequences: sequences / 40,
        context=16,
        data={"data": "two books", "tokens": {"train": 640}, "bytes": {"train": 2000}},
        files=lambda sequences: {"files": 5, "files_processed": sequences // 4},
    )


def test_everything_a_person_asks_of_a_checkpoint_is_there() -> None:
    state = TrainerState(
        step=3,
        sequences=12,
        best=Best("val/loss", 2.5, 2),
        last_evaluation={"val/loss": 2.6},
        row={"train/loss": 2.75},
    )
    told = json.loads(json.dumps(describer([4.0, 3.0, 2.75])(state)))

    assert datetime.fromisoformat(told.pop("timestamp")).tzinfo is not None
    assert set(told.pop("versions")) >= {"llmforge", "torch"}
    assert told == {
        "run_id": "run-1",
        "step": 3,
        "epoch": 0.3,
        "tokens_seen": 192,
        "train_loss": 2.75,
        "evaluation": {"val/loss": 2.6},
        "best": {"metric": "val/loss", "value": 2.5, "step": 2},
        "steps_since_best": 1,
        "trend": "unknown",
        "history": {
            "step": [1, 2, 3],
            "train/loss": [4.0, 3.0, 2.75],
            "lr": [1e-3, 5e-4, 1e-3 / 3],
        },
        "files": 5,
        "files_processed": 3,
        "data": {"data": "two books", "tokens": {"train": 640}, "bytes": {"train": 2000}},
        "device": "cpu",
        "device_count": 1,
        "hardware": "a processor",
        "precision": "bf16",
        "compiled": False,
    }


def test_before_the_first_row_what_is_not_known_is_null() -> None:
    told = describer([])(TrainerState(step=1, sequences=4))
    assert (told["train_loss"], told["best"], told["steps_since_best"]) == (None, None, None)


@pytest.mark.parametrize(
    ("losses", "word"),
    [
        ([3.0] * 10, "unknown"),
        ([4.0] * 10 + [3.0] * 10, "improving"),
        ([3.0] * 10 + [3.01] * 10, "flat"),
        ([3.0] * 10 + [3.5] * 10, "worsening"),
    ],
)
def test_the_trend_compares_the_last_ten_points_with_the_ten_before(
    losses: list[float], word: str
) -> None:
    assert trend(losses) == word
