"""Fabricated runs and sweeps to look at: with curves, samples, logs, as many as asked for."""

from __future__ import annotations

import json
import random
import socket
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from llmforge.recipe.overrides import Override
from llmforge.rundir import RunDirectory, RunRecord, write_record
from llmforge.rundir.record import boot_id
from llmforge.sweeps.sweep import SweepDirectory, open_sweep
from llmforge.sweeps.trials import Result

STATES = ("completed", "completed", "completed", "early-stopped", "interrupted", "failed")


@lru_cache(maxsize=32)
def metric_rows(points: int, *, seed: int, start: int = 0, every: int = 10) -> tuple[str, str]:
    """Return the lines of ``metrics.jsonl`` and ``timing.jsonl`` of a run that learns."""
    random_ = np.random.default_rng(seed)
    steps = np.arange(start + 1, start + points + 1) * every
    floor = 2.5 + 0.05 * (seed % 20)
    loss = floor + 4.0 * np.exp(-steps / (every * 1500.0)) + random_.normal(0, 0.06, points)
    norm = 0.4 + 0.1 * random_.random(points)
    metrics, timing = [], []
    for place, step in enumerate(steps.tolist()):
        row: dict[str, Any] = {
            "step": step,
            "epoch": round(step / 1000, 4),
            "tokens_seen": step * 2048,
        }
        row |= {"train/loss": round(float(loss[place]), 5), "lr": 1e-3 / (1 + step / 1e5)}
        row["grad_norm"] = round(float(norm[place]), 5)
        if (start + place) % 50 == 49:
            row |= {
                "val/loss": float(loss[place]) + 0.1,
                "val/perplexity": float(np.exp(loss[place] + 0.1)),
            }
        metrics.append(json.dumps(row))
        speed = 24_000 + 500 * float(random_.standard_normal())
        timing.append(
            json.dumps(
                {"step": step, "time": 1.7e9 + step, "seconds": 0.85, "tokens_per_second": speed}
            )
        )
    return "\n".join(metrics) + "\n", "\n".join(timing) + "\n"


def make_run(
    root: Path, run_id: str, *, points: int = 200, seed: int = 0, **changes: Any
) -> RunDirectory:
    """Write a run as training leaves it; ``changes`` are fields of the record that shall differ."""
    directory = RunDirectory(root / run_id)
    directory.path.mkdir(parents=True)
    metrics, timing = metric_rows(points, seed=seed % 20)
    directory.metrics.write_text(metrics)
    directory.timing.write_text(timing)
    last = json.loads(metrics.splitlines()[-1])
    rate, batch = [5e-4, 1e-3, 2e-3][seed % 3], [8, 16, 32][seed // 3 % 3]
    started = time.time() - 3600 * (seed + 1)
    best = {"metric": "val/loss", "value": last["train/loss"] + 0.1, "step": last["step"]}
    fields: dict[str, Any] = {
        "name": f"trial {seed}",
        "state": "completed",
        "exit_reason": "all steps taken",
        "restarts": 1,
        "tags": ["base"] if seed % 2 else [],
        "created": started,
        "started": started,
        "ended": started + 240,
        "step": last["step"],
        "total_steps": points * 10,
        "identity": {
            "hash": "a1b2c3" * 10,
            "keys": {
                "optimizer.adamw.lr": rate,
                "train.batch_size": batch,
                "model.name": "transformer",
            },
        },
        "metrics": {
            **{key: last[key] for key in ("train/loss", "lr", "grad_norm")},
            "val/loss": best["value"],
            "best": best,
        },
        "heartbeat": {
            "time": started + 240,
            "host": socket.gethostname(),
            "boot_id": boot_id(),
            "pid": 4242,
        },
        "goodput": {"wall_seconds": 240.0},
    }
    write_record(directory, RunRecord(run_id, **(fields | changes)), durable=False)
    directory.recipe.write_text(f"[train]\nbatch_size = {batch}\n[optimizer.adamw]\nlr = {rate}\n")
    (directory.path / "log.txt").write_text("2026-01-01 12:00:00,000 INFO started\n")
    return directory


def make_runs(root: Path, count: int, *, points: int) -> list[str]:
    """Write many runs; return their ids."""
    ids = []
    for seed in range(count):
        state = STATES[seed % len(STATES)]
        batch, rate = (8, 16, 32)[seed // 3 % 3], ("5e-04", "1e-03", "2e-03")[seed % 3]
        run_id = f"single_bs{batch}_cw128_lr{rate}-{seed:06x}"
        make_run(root, run_id, points=points, seed=seed, state=state)
        ids.append(run_id)
    return ids


def add_samples(
    directory: RunDirectory, texts: dict[int, str], *, prompt: str = "The history of"
) -> None:
    """Write what the model said at some steps."""
    rows = [
        {"step": step, "prompt": prompt, "text": text, "tokens": 40, "finish": "length"}
        for step, text in texts.items()
    ]
    directory.samples.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_sweep(root: Path, *, trials: int) -> SweepDirectory:
    """Write the sweep of a shipped recipe with ended trials, through the ledger as workers do."""
    sweep = open_sweep(
        "wikitext_tiny_sweep", overrides=[Override(("run", "root"), str(root), origin="--root")]
    )
    ledger = sweep.ledger()
    pick = random.Random(1)
    for number in range(trials):
        parameters: dict[str, Any] = {
            "train.batch_size": pick.choice([8, 16, 32]),
            "model.transformer.context": pick.choice([32, 64, 128]),
            "optimizer.adamw.lr": pick.choice([5e-4, 1e-3, 2e-3, 5e-3, 1e-2]),
        }
        entry = ledger.begin(number, 0, 0, parameters)
        assert entry is not None
        ledger.set_run(entry, run_id=f"tune_{number}", identity="a" * 64)
        value = (
            5.6
            + 40 * abs(parameters["optimizer.adamw.lr"] - 2e-3)
            + parameters["train.batch_size"] / 90
            + pick.random() / 10
        )
        is_pruned = pick.random() < 0.3
        ledger.finish(
            entry,
            Result(
                outcome="pruned" if is_pruned else "completed",
                value=None if is_pruned else value,
                reason="",
                seconds=4.0,
            ),
        )
    return sweep.directory
