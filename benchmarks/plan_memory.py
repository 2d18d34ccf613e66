"""How far ``forge plan`` is from the memory that real steps take.

    python benchmarks/plan_memory.py [--markdown] [--device cuda]

Each case is traced, then trained for two steps of two micro-batches by the real backend, in
processes of their own. ``allocated`` is the peak of what PyTorch's allocator gave out: by its
profiler's memory events on a CPU, ``torch.cuda.max_memory_allocated`` on CUDA. ``held`` is the peak
of what the process took from the machine for it: resident memory on a CPU, above what a toy model
left behind, and ``torch.cuda.max_memory_reserved`` on CUDA.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

STEPS = 2
ACCUMULATED = 2
TOY = {
    "model.transformer.layers": "1",
    "model.transformer.width": "64",
    "model.transformer.heads": "2",
    "model.transformer.context": "32",
}


@dataclass(frozen=True)
class Case:
    """One size: recipe keys beside those of ``custom_nano``."""

    name: str
    micro_batch: int
    keys: dict[str, Any]


def _case(name: str, micro_batch: int, vocabulary: int, **model: Any) -> Case:
    keys = {f"model.transformer.{key}": json.dumps(value) for key, value in model.items()}
    return Case(name, micro_batch, {**keys, "tokenizer.bpe.vocab_size": str(vocabulary)})


CPU = (
    _case("nano, 128 tokens", 32, 8192, preset="nano", context=128),
    _case("tiny, 256 tokens", 16, 8192, preset="tiny", context=256),
    _case("tiny, 1024 tokens", 4, 8192, preset="tiny", context=1024),
    _case("small, 256 tokens", 4, 8192, preset="small", context=256),
    _case("neox 4 x 512", 4, 16_384, preset="neox-1b", layers=4, width=512, heads=8, context=512),
)
CUDA = (
    _case("GPT-2 124M", 8, 50_257, preset="medium", context=1024),
    _case("350M", 8, 50_257, layers=24, width=1024, heads=16, activation="gelu", context=1024),
    _case("neox-1.2b", 4, 50_257, preset="neox-1.2b", context=2048),
)


def main() -> None:
    """Measure every case and print predicted and measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # a child's work
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(_measured(json.loads(arguments.case))))
        return
    widths = (18, 9, 10, 10, 7, 10, 7)
    edge, gap = ("| ", " | ") if arguments.markdown else ("", " ")
    names = ("case", "precision", "predicted", "allocated", "error", "held", "error")
    _print_row(names, widths, edge, gap)
    if arguments.markdown:
        print("|---|---|---:|---:|---:|---:|---:|")
    for case in CPU if arguments.device == "cpu" else CUDA:
        for precision in ("fp32", "bf16"):
            keys = _keys(case, precision, arguments.device)
            predicted = _predicted(keys, case.micro_batch, arguments.device)
            row = [case.name, precision, _megabytes(predicted)]
            for measure in ("allocated", "held"):
                work = {"keys": keys, "micro_batch": case.micro_batch, "measure": measure}
                measured = _in_child(work)
                row += [_megabytes(measured), f"{predicted / measured - 1:+.1%}"]
            _print_row(row, widths, edge, gap)


def _print_row(values: Sequence[str], widths: Sequence[int], edge: str, gap: str) -> None:
    cells = [
        f"{value:>{width}}" if index > 1 else f"{value:<{width}}"
        for index, (value, width) in enumerate(zip(values, widths, strict=True))
    ]
    print(f"{edge}{gap.join(cells)}{edge[::-1]}", flush=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _keys(case: Case, precision: str, device: str) -> dict[str, str]:
    return {
        **case.keys,
        "train.precision": json.dumps(precision),
        "train.device": json.dumps(device),
        "train.compile": "false",
        "train.micro_batch_size": str(case.micro_batch),
        "train.batch_size": str(case.micro_batch * ACCUMULATED),
    }


def _recipe(keys: dict[str, str]) -> Any:
    from llmforge.recipe import load_recipe

    return load_recipe("custom_nano", overrides=[f"{key}={text}" for key, text in keys.items()])


def _predicted(keys: dict[str, str], micro_batch: int, device: str) -> int:
    from llmforge.planning.plan import plan_memory

    plan = plan_memory(_recipe(keys), memory_limit=1 << 50, device=device)
    row = next(row for row in plan.rows if row.strategy == "single")
    assert row.micro_batch == micro_batch
    return row.memory.total


def _in_child(work: dict[str, Any]) -> int:
    done = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(work)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "FORGE_OFFLINE": "1"},
    )
    return int(json.loads(done.stdout.splitlines()[-1]))


def _measured(work: dict[str, Any]) -> int:
    """Train as the run loop does and return the bytes it took."""
    import psutil
    import torch

    keys, micro_batch = work["keys"], work["micro_batch"]
    allocated = work["measure"] == "allocated"
    _train(keys | TOY, 1)  # so that imports, threads and code of kernels are there already
    if json.loads(keys["train.device"]) == "cuda":
        _train(keys, micro_batch)
        peak = torch.cuda.max_memory_allocated if allocated else torch.cuda.max_memory_reserved
        return int(peak())
    if allocated:
        return _peak_given_out(lambda: _train(keys, micro_batch))
    before = psutil.Process().memory_info().rss
    _train(keys, micro_batch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def _peak_given_out(work: Callable[[], None]) -> int:
    """Return the most bytes that PyTorch's CPU allocator had given out at once during ``work``."""
    import torch

    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(itertools.accumulate(sizes))


def _train(keys: dict[str, str], micro_batch: int) -> None:
    import torch

    from llmforge.plugins import build_manager
    from llmforge.run.parts import prepare_engine
    from llmforge.run.plan import make_plan

    recipe = _recipe(keys)
    plan, vocabulary = make_plan(recipe), int(keys["tokenizer.bpe.vocab_size"])
    components = plan.components()
    used = [components[kind][0] for kind in ("model", "optimizer", "schedule", "backend")]
    engine = prepare_engine(
        build_manager(used),
        plan.context(resolved={}, notice=print),
        SimpleNamespace(vocab_size=vocabulary),
    )
    ids = torch.randint(vocabulary, (micro_batch, recipe.context))
    for step in range(STEPS):
        for index in range(ACCUMULATED):
            engine.accumulate(
                {"inputs": ids, "targets": ids},
                targets=ACCUMULATED * ids.numel(),
                seed=index,
                last=index == ACCUMULATED - 1,
            )
        engine.step(step)
    assert engine.finite()


if __name__ == "__main__":
    main()
