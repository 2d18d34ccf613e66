"""Prints how long an optimizer's step takes of a forward and backward pass: NAME DIRECTORY.

A process of its own, because how a CPU multiplies is settled when torch is loaded. Counted is
processor time, the least of several, so that other processes do not matter.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llmforge.matmul_speed import measure_matmul_speed
from llmforge.plugins import load
from llmforge.testing import TinyTokenizer, make_component, run_context

LAYERS, WIDTH, CONTEXT, ROWS = 2, 256, 128, 16


def main(name: str, directory: Path) -> None:
    """Train a few steps with the optimizer ``name`` and print the ratio."""
    torch.set_num_threads(1)
    run = run_context(
        directory,
        train={"precision": "auto"},
        context=CONTEXT,
        matmul_speed=measure_matmul_speed(),
    )
    shape = {"layers": LAYERS, "width": WIDTH, "heads": 4, "context": CONTEXT}
    model = make_component(load("model", "transformer"), shape)
    optimizer = make_component(load("optimizer", name))
    backend: Any = make_component(load("backend", "single"))
    engine = backend.forge_build_backend(run=run).prepare(
        lambda: model.forge_build_model(run=run, tokenizer=TinyTokenizer()),  # type: ignore[attr-defined]
        lambda parameters: optimizer.forge_build_optimizer(run=run, parameters=parameters),  # type: ignore[attr-defined]
        lambda _step: 1.0,
    )
    ids = torch.randint(50, (ROWS, CONTEXT), generator=torch.Generator().manual_seed(1))
    batch = {"inputs": ids, "targets": ids}
    count = ids.numel()
    passes, steps = [], []
    for step in range(5):
        passes.append(_seconds(lambda: engine.accumulate(batch, targets=count, seed=1, last=True)))
        steps.append(_seconds(lambda step=step: engine.step(step)))  # type: ignore[misc]
    print(min(steps[1:]) / min(passes[1:]), engine.resolution.precision)


def _seconds(act: Callable[[], object]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
