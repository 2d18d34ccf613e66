"""How long a checkpoint holds up the step loop, and what its writing costs the steps beside it.

    python benchmarks/checkpoint_blocking.py [--megabytes 167] [--rounds 12]

A state of weights and two AdamW moments, GPT-shaped, is saved every round by (a) llmforge's
writer and (b) ``torch.save`` followed by ``fsync``, interleaved. The blocking time is that of the
call in the step loop. Afterwards steps (matrix products on all of PyTorch's threads) are timed
with the disk idle and while a checkpoint is being written.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from llmforge.checkpoint import CheckpointWriter, Retention, SaveRequest, SelfDescription

WIDTH = 384


def make_state(megabytes: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return weights, and optimizer tensors by name, of ``megabytes`` together in fp32."""
    shapes = {"qkv": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH), "up": (4 * WIDTH, WIDTH)}
    shapes |= {"down": (WIDTH, 4 * WIDTH), "norm": (WIDTH,)}
    model: dict[str, torch.Tensor] = {}
    wanted = megabytes * 1e6 / 3 / 4
    held = 0
    while held < wanted:
        for name, shape in shapes.items():
            tensor = torch.randn(shape)
            model[f"blocks.{len(model) // len(shapes)}.{name}"] = tensor
            held += tensor.numel()
    optimizer: dict[str, torch.Tensor] = {}
    for name, tensor in model.items():
        optimizer[f"{name}/exp_avg"] = torch.randn_like(tensor)
        optimizer[f"{name}/exp_avg_sq"] = torch.rand_like(tensor)
        optimizer[f"{name}/step"] = torch.tensor(100.0)
    return model, optimizer


def timed(call: Callable[[], object]) -> float:
    """Return how long ``call`` takes, in milliseconds."""
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def save_with_torch(state: object, path: Path) -> None:
    """Save ``state`` as a hand-written loop would that wants it on the disk."""
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def report(name: str, times: list[float]) -> None:
    """Print median and extremes of ``times``."""
    print(f"{name:<46} {statistics.median(times):8.1f} {min(times):8.1f} {max(times):8.1f}")


def steps_for(seconds: float, *, busy: Callable[[], bool]) -> list[float]:
    """Return the times of steps taken for ``seconds`` or until ``busy`` is false."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    end = time.perf_counter() + seconds
    times = []
    while time.perf_counter() < end and busy():
        times.append(timed(lambda: [left @ right for _ in range(4)]))
    return times


class Contest:
    """llmforge's writer on one state, and how long each checkpoint took to become valid."""

    def __init__(self, directory: Path, megabytes: float) -> None:
        self.directory = directory
        self.model, self.optimizer = make_state(megabytes)
        self.saved: list[float] = []
        self.step = 0
        self.writer = CheckpointWriter(
            directory / "checkpoints",
            description=SelfDescription(recipe="", recipe_hash=""),
            retention=Retention(keep_last=1),
            on_saved=lambda item: self.saved.append(item.seconds * 1e3),
        )

    def submit(self) -> None:
        """Submit the next checkpoint."""
        self.step += 1
        self.writer.submit(
            SaveRequest(
                step=self.step,
                model=self.model,
                optimizer=self.optimizer,
                trainer={},
                metadata={},
            )
        )

    def blocking(self, rounds: int) -> None:
        """Print how long the step loop is held up by each way of saving."""
        prepare = timed(lambda: self.writer.prepare(self.model, self.optimizer))
        submits, plain = [], []
        state = {"model": self.model, "optimizer": self.optimizer}
        for _ in range(rounds):
            submits.append(timed(self.submit))
            self.writer.flush()
            plain.append(timed(lambda: save_with_torch(state, self.directory / "x.pt")))
        report("prepare (once, before step 0)", [prepare])
        report("first submit", submits[:1])
        report("submit", submits[1:])
        report("until valid on the disk", self.saved)
        report("torch.save + fsync", plain)

    def interference(self, rounds: int) -> None:
        """Print the time of a step with the disk idle and while a checkpoint is written."""
        idle: list[float] = []
        busy: list[float] = []
        for _ in range(rounds):
            idle += steps_for(0.3, busy=lambda: True)
            self.submit()
            busy += steps_for(10, busy=lambda: len(self.saved) < self.step)
            self.writer.flush()
        report("a step, disk idle", idle)
        report("a step, while a checkpoint is written", busy)


def main() -> None:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(description="blocking time of a checkpoint")
    parser.add_argument("--megabytes", type=float, default=167)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name:
        contest = Contest(Path(name), arguments.megabytes)
        count = len(contest.model) + len(contest.optimizer)
        print(
            f"{arguments.megabytes:g} MB in {count} tensors, {torch.get_num_threads()} threads, "
            f"load {os.getloadavg()[0]:.1f}"
        )
        print(f"{'milliseconds':<46} {'median':>8} {'min':>8} {'max':>8}")
        contest.blocking(arguments.rounds)
        contest.interference(arguments.rounds)
        contest.writer.close()


if __name__ == "__main__":
    main()
