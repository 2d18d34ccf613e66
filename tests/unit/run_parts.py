"""Fabricated run directories, written by llmforge's own writers."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmforge.rundir import (
    Completion,
    RunDirectory,
    RunRecord,
    write_completion,
    write_record,
)
from llmforge.rundir.record import boot_id

KEYS = {"train.batch_size": 4, "model.transformer.context": 16, "optimizer.adamw.lr": 1e-3}


def make_run(root: Path, run_id: str, **changes: Any) -> RunDirectory:
    """Write a run with a record; ``changes`` are fields of the record that shall differ."""
    directory = RunDirectory(root / run_id)
    directory.path.mkdir(parents=True)
    started = changes.pop("started", time.time() - 3600)
    fields: dict[str, Any] = {
        "state": "completed",
        "exit_reason": "all 600 steps taken",
        "restarts": 1,
        "created": started,
        "started": started,
        "ended": started + 240,
        "step": 600,
        "total_steps": 600,
        "identity": {"hash": "a1b2c3" * 10, "keys": dict(KEYS)},
        "metrics": {
            "train/loss": 3.21,
            "val/loss": 3.5,
            "best": {"metric": "val/loss", "value": 3.4, "step": 500},
        },
        "heartbeat": {
            "time": started + 240,
            "host": socket.gethostname(),
            "boot_id": boot_id(),
            "pid": 4242,
        },
    }
    write_record(directory, RunRecord(run_id, **(fields | changes)), durable=False)
    return directory


def complete(directory: RunDirectory, **changes: Any) -> Completion:
    """Write the completion of a run."""
    fields: dict[str, Any] = {
        "attempt": 1,
        "identity": "a1b2c3" * 10,
        "state": "completed",
        "reason": "all 600 steps taken",
        "steps": 600,
        "final_loss": 3.5,
        "best_loss": 3.4,
        "best_step": 500,
        "started": time.time() - 3600,
        "ended": time.time() - 3000,
        "directory": str(directory.path),
        "next_command": f"forge generate {directory.id}",
    }
    completion = Completion(run_id=directory.id, **(fields | changes))
    write_completion(directory.root, completion)
    return completion


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as the runner does, a JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def training_rows(
    steps: int = 600, *, log_every: int = 10, eval_every: int = 100, per_epoch: int = 200
) -> list[dict[str, Any]]:
    """Return rows of a plausible training: noisy falling loss, warm-up and cosine."""
    rows = []
    for step in range(log_every, steps + 1, log_every):
        ideal = 2.9 + 5.4 * math.exp(-step / (steps / 4))
        wobble = 0.12 * math.sin(step * 1.7) + 0.07 * math.sin(step * 0.61)
        rate = 1e-3 * min(1.0, 10 * step / steps) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        row: dict[str, Any] = {
            "step": step,
            "epoch": step / per_epoch,
            "tokens_seen": step * 2048,
            "train/loss": ideal + wobble,
            "lr": rate,
            "grad_norm": 0.6 + 0.2 * math.sin(step),
        }
        if step % eval_every == 0:
            loss = ideal + 0.15 + 0.25 * max(0.0, step / steps - 0.7)
            row |= {"val/loss": loss, "val/perplexity": math.exp(loss)}
            row["val/bits_per_byte"] = loss / 3.1
        if step % per_epoch == 0:
            row["train/loss_epoch"] = ideal + 0.3
        rows.append(row)
    return rows
