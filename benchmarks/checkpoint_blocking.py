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


def main() -> None:
    """Run the comparison and print the tables."""
    parser = argparse.ArgumentParser(description="blocking time of a checkpoint")
    parser.add_argument("--megabytes", type=float, default=167)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    model, optimizer = make_state(arguments.megabytes)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.values()) * 3

    def request(step: int) -> SaveRequest:
        return SaveRequest(step=step, model=model, optimizer=optimizer, trainer={}, metadata={})

    with tempfile.TemporaryDirectory(dir=".") as name:
        saved: list[float] = []
        writer = CheckpointWriter(
            Path(name) / "checkpoints",
            description=SelfDescription(recipe="", recipe_hash=""),
            retention=Retention(keep_last=1),
            on_saved=lambda item: saved.append(item.seconds * 1e3),
        )
        prepare = timed(lambda: writer.prepare(model, optimizer))
        blocking: list[float] = []
        plain: list[float] = []
        for step in range(1, arguments.rounds + 1):
            blocking.append(timed(lambda step=step: writer.submit(request(step))))
            writer.flush()
            state = {"model": model, "optimizer": optimizer}
            plain.append(timed(lambda state=state: save_with_torch(state, Path(name) / "x.pt")))
        threads = torch.get_num_threads()
        print(f"state {size / 1e6:.0f} MB, {len(model) * 4} tensors, {threads} threads")
        print(f"{'milliseconds':<46} {'median':>8} {'min':>8} {'max':>8}")
        report("prepare (once, before step 0)", [prepare])
        report("first submit", blocking[:1])
        report("submit", blocking[1:])
        report("until valid on the disk", saved)
        report("torch.save + fsync", plain)

        idle: list[float] = []
        busy: list[float] = []
        for step in range(100, 100 + arguments.rounds):
            idle += steps_for(0.3, busy=lambda: True)
            before = len(saved)
            writer.submit(request(step))
            busy += steps_for(10, busy=lambda before=before: len(saved) == before)
            writer.flush()
        report("a step, disk idle", idle)
        report("a step, while a checkpoint is written", busy)
        means = statistics.mean(idle), statistics.mean(busy)
        print(f"mean step: {means[0]:.1f} idle, {means[1]:.1f} while writing")
        writer.close()


if __name__ == "__main__":
    main()
