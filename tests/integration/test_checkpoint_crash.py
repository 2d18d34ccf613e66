"""Kill -9 at random instants of saving: what was announced is never lost, what is left is sound."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from llmforge.checkpoint import (
    CheckpointWriter,
    Retention,
    SaveRequest,
    SelfDescription,
    list_checkpoints,
    load_tensors,
    newest_valid,
    read_trainer,
    verify,
)

KILLS = 15


def save_forever(directory: Path, announcements: Connection) -> None:
    """Save checkpoint after checkpoint, some of them twice, and announce what became valid."""
    restored = newest_valid(directory)
    step = restored.checkpoint.step if restored else 0
    model = {"a": torch.empty(300_000), "b": torch.empty(7, dtype=torch.int64)}
    moments = {"a/exp_avg": torch.empty(300_000)}
    writer = CheckpointWriter(
        directory,
        description=SelfDescription(recipe="[run]\n", recipe_hash="0123"),
        retention=Retention(keep_last=1, keep_best=1),
        on_saved=lambda saved: announcements.send(saved.step),
        parent=step or None,
    )
    announcements.send(step)
    while True:
        step += 1
        for again in range(2 if step % 3 == 0 else 1):
            for tensor in (*model.values(), *moments.values()):
                tensor.fill_(step)
            request = SaveRequest(
                step=step,
                model=model,
                optimizer=moments,
                trainer={"step": step, "again": again},
                metadata={},
                is_best=step % 5 == 0,
                required=True,
            )
            writer.submit(request)


def run_and_kill(directory: Path, delay: float) -> int:
    """Save for ``delay`` seconds in a process, kill it, and return the last step it announced."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llmforge.checkpoint.host_tensors"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=save_forever, args=(directory, theirs))
    process.start()
    theirs.close()
    announced = [ours.recv()]
    time.sleep(delay)
    assert process.is_alive()
    process.kill()
    process.join()
    with contextlib.suppress(EOFError):
        while True:
            announced.append(ours.recv())
    return announced[-1]


def check_content(path: Path, step: int) -> None:
    """Check that all files of a checkpoint hold the state of ``step``."""
    tensors = {**load_tensors(path, "model"), **load_tensors(path, "optimizer")}
    for name, tensor in tensors.items():
        assert bool((tensor == step).all()), name
    assert read_trainer(path)["step"] == step


def test_a_kill_at_any_instant_leaves_the_newest_announced_checkpoint_or_a_later_one(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "run" / "checkpoints"
    directory.mkdir(parents=True)
    dice = random.Random(time.time_ns())
    newest = 0
    in_progress = 0
    for number in range(KILLS):
        delay = dice.uniform(0.02, 0.4)
        newest = max(newest, run_and_kill(directory, delay))
        names = [path.name for path in directory.iterdir()]
        in_progress += any(name.startswith(".") for name in names)
        restored = newest_valid(directory)
        if restored is None:
            assert newest == 0, (number, delay, names)
            continue
        assert restored.warnings == ()
        assert restored.checkpoint.step >= newest, (number, delay, names)
        check_content(restored.checkpoint.path, restored.checkpoint.step)
        newest = restored.checkpoint.step
    assert in_progress > 0, "no kill hit a write: the test shows nothing"
    checkpoints = list_checkpoints(directory)
    assert [wrong for item in checkpoints for wrong in verify(item.path)] == []
    assert [item.step for item in checkpoints if item.is_best][-1] == newest - newest % 5
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]
