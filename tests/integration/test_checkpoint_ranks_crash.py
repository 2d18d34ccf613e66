"""Kill -9 of one of two ranks at random instants of saving: the last checkpoint stays, whole."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

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
from llmforge.checkpoint.gloo_group import GlooCrew
from llmforge.errors import CheckpointError
from llmforge.interfaces import Slice

KILLS = 5
SIZE = 600_000
TIMEOUT = 20.0


def greatest(number: int) -> int:
    """Return the greatest number of all ranks, over the group of the step loop."""
    numbers = torch.tensor([number])
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
    return int(numbers)


def save_forever(rank: int, store: Path, directory: Path, said: Connection) -> None:
    """Save checkpoint after checkpoint as one of two ranks; say what is valid and what fails."""
    patience = datetime.timedelta(seconds=TIMEOUT)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(store), 2), rank=rank, world_size=2, timeout=patience
    )
    crew = GlooCrew(dist.new_group(backend="gloo", timeout=patience), timeout=TIMEOUT)
    known = list_checkpoints(directory)
    step = known[-1].step if known else 0
    begin, end = (0, SIZE // 3) if rank == 0 else (SIZE // 3, SIZE)
    model = {"a": torch.empty(end - begin), "b": torch.empty(7, dtype=torch.int64)}
    moments = {"a/exp_avg": torch.empty(end - begin)}
    part = Slice((SIZE,), begin)
    writer = CheckpointWriter(
        directory,
        description=SelfDescription(recipe="[run]\n", recipe_hash="0123", world_size=2),
        retention=Retention(keep_last=2),
        on_saved=lambda saved: said.send(saved.step),
        parent=step or None,
        crew=crew,
        agree=greatest,
    )
    said.send(step)
    try:
        while True:
            step += 1
            for tensor in (*model.values(), *moments.values()):
                tensor.fill_(step)
            writer.submit(
                SaveRequest(
                    step=step,
                    model=model,
                    optimizer=moments,
                    slices={"a": part, "a/exp_avg": part},
                    trainer={"step": step},
                    metadata={},
                    required=True,
                )
            )
    except RuntimeError:  # the step loop's own group noticed
        try:
            writer.flush(TIMEOUT)
            said.send("the writer was idle")
        except CheckpointError as error:
            said.send(str(error))
    except CheckpointError as error:
        said.send(str(error))


def run_and_kill(folder: Path, directory: Path, victim: int, delay: float) -> tuple[int, str]:
    """Save for ``delay`` seconds, kill one rank; return the last step announced and the error.

    The error is what the other rank said.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "llmforge.checkpoint.host_tensors"])
    store = folder / f"store-{time.time_ns()}"
    pipes, processes = [], []
    for rank in range(2):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=save_forever, args=(rank, store, directory, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    first = [pipe.recv() for pipe in pipes]
    time.sleep(delay)
    assert all(process.is_alive() for process in processes)
    processes[victim].kill()
    processes[1 - victim].join(TIMEOUT)
    assert processes[1 - victim].exitcode is not None, "the other rank hangs"
    said: list[int | str] = [*first]
    for pipe in pipes:
        with contextlib.suppress(EOFError):
            while True:
                said.append(pipe.recv())
    for process in processes:
        process.join()
    steps = [item for item in said if isinstance(item, int)]
    return max(steps), next((item for item in said if isinstance(item, str)), "")


def check_content(path: Path, step: int) -> None:
    """Check that all files of a checkpoint hold the state of ``step``."""
    for tensors in (load_tensors(path, "model"), load_tensors(path, "optimizer")):
        for name, tensor in tensors.items():
            assert bool((tensor == step).all()), name
    assert read_trainer(path)["step"] == step


@pytest.mark.parametrize(
    ("victim", "expected"),
    [(1, "rank 1 is lost"), (0, "rank 0, which leads the writing of checkpoints, is gone")],
)
def test_a_kill_of_either_rank_leaves_the_newest_announced_checkpoint_or_a_later_one(
    tmp_path: Path, victim: int, expected: str
) -> None:
    directory = tmp_path / "run" / "checkpoints"
    dice = random.Random(time.time_ns())
    newest = in_progress = named = 0
    for number in range(KILLS):
        delay = dice.uniform(0.05, 0.4)
        announced, error = run_and_kill(tmp_path, directory, victim, delay)
        newest = max(newest, announced)
        assert expected in error or error == "the writer was idle", error
        named += expected in error
        names = [path.name for path in directory.iterdir()]
        in_progress += any(name.startswith(".") for name in names)
        visible = [path for path in directory.iterdir() if path.name.startswith("step-")]
        assert [wrong for path in visible for wrong in verify(path)] == []
        restored = newest_valid(directory)
        if restored is None:
            assert newest == 0, (number, delay, names)
            continue
        assert restored.warnings == ()
        assert restored.checkpoint.step >= newest, (number, delay, names)
        check_content(restored.checkpoint.path, restored.checkpoint.step)
        newest = restored.checkpoint.step
    assert newest > 0
    assert named > 0, "no kill hit a write: the test shows nothing"
    assert victim == 0 or in_progress == 0, "a live leader discards its draft"
