"""How far ``forge plan`` is from the memory that real steps take.

    python benchmarks/plan_memory.py [--markdown] [--device cuda] [--ranks 2]

Each case is traced, then trained for two steps of two micro-batches by the real backend, in
processes of their own. ``allocated`` is the peak of what PyTorch's allocator gave out: by its
profiler's memory events on a CPU, ``torch.cuda.max_memory_allocated`` on CUDA. ``held`` is the peak
of what the process took from the machine for it: resident memory on a CPU, above what a toy model
left behind, and ``torch.cuda.max_memory_reserved`` on CUDA. With ``--ranks`` one case is spread
over as many processes in every way there is, and the fullest of them counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
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
    "train.micro_batch_size": "1",
}
STRATEGIES: dict[str, dict[str, str]] = {
    "single": {"backend.name": "single"},
    "ddp": {"backend.name": "ddp"},
    "fsdp": {"backend.name": "fsdp"},
    "fsdp, reduce each": {
        "backend.name": "fsdp",
        "backend.fsdp.reduce_every_micro_batch": "true",
    },
    **{
        f"deepspeed {stage}": {"backend.name": "deepspeed", "backend.deepspeed.stage": str(stage)}
        for stage in range(4)
    },
}
"""Recipe keys of what ``forge plan`` calls a strategy."""


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
    parser.add_argument("--ranks", type=int, default=1)
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
    for name, strategy, case in _cases(arguments.device, arguments.ranks):
        for precision in ("fp32", "bf16"):
            keys = _keys(case, precision, arguments.device, arguments.ranks)
            predicted = _predicted(keys, strategy, arguments.device, arguments.ranks)
            row = [name, precision, _megabytes(predicted)]
            for measure in ("allocated", "held"):
                work = {"keys": keys | STRATEGIES[strategy], "measure": measure}
                measured = _in_children(work, arguments.ranks)
                row += [_megabytes(measured), f"{predicted / measured - 1:+.1%}"]
            _print_row(row, widths, edge, gap)


def _cases(device: str, ranks: int) -> Iterator[tuple[str, str, Case]]:
    """Yield (what a row is called, the strategy, the case)."""
    cases = CPU if device == "cpu" else CUDA
    if ranks == 1:
        yield from ((case.name, "single", case) for case in cases)
    else:
        yield from ((name, name, cases[-1]) for name in STRATEGIES if name != "single")


def _print_row(values: Sequence[str], widths: Sequence[int], edge: str, gap: str) -> None:
    cells = [
        f"{value:>{width}}" if index > 1 else f"{value:<{width}}"
        for index, (value, width) in enumerate(zip(values, widths, strict=True))
    ]
    print(f"{edge}{gap.join(cells)}{edge[::-1]}", flush=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _keys(case: Case, precision: str, device: str, ranks: int) -> dict[str, str]:
    return {
        **case.keys,
        "train.precision": json.dumps(precision),
        "train.device": json.dumps(device),
        "train.compile": "false",
        "train.micro_batch_size": str(case.micro_batch),
        "train.batch_size": str(case.micro_batch * ACCUMULATED * ranks),
    }


def _recipe(keys: dict[str, str]) -> Any:
    from llmforge.recipe import load_recipe

    return load_recipe("custom_nano", overrides=[f"{key}={text}" for key, text in keys.items()])


def _predicted(keys: dict[str, str], strategy: str, device: str, ranks: int) -> int:
    from llmforge.planning.plan import plan_memory

    plan = plan_memory(_recipe(keys), memory_limit=1 << 50, device=device, ranks=ranks)
    row = next(row for row in plan.rows if row.strategy == strategy)
    assert str(row.micro_batch) == keys["train.micro_batch_size"]
    return row.memory.total


def _in_children(work: dict[str, Any], ranks: int) -> int:
    """Do ``work`` in as many processes as there are ranks; return the most that one took."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--case", json.dumps(work)],
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "FORGE_OFFLINE": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in range(ranks)
    ]
    printed = [child.communicate()[0] for child in children]
    assert not any(child.returncode for child in children)
    return max(int(text.splitlines()[-1]) for text in printed)


def _measured(work: dict[str, Any]) -> int:
    """Train as the run loop does and return the bytes it took."""
    import psutil
    import torch

    keys, allocated = work["keys"], work["measure"] == "allocated"
    if int(os.environ["WORLD_SIZE"]) > 1:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if _on_gpu(keys) else "gloo")
    _train(keys | TOY)  # so that imports, threads and code of kernels are there already
    if _on_gpu(keys):
        _train(keys)
        peak = torch.cuda.max_memory_allocated if allocated else torch.cuda.max_memory_reserved
        return int(peak())
    if allocated:
        return _peak_given_out(lambda: _train(keys))
    before = psutil.Process().memory_info().rss
    _train(keys)
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


def _on_gpu(keys: dict[str, str]) -> bool:
    return keys["train.device"] == '"cuda"'


def _train(keys: dict[str, str]) -> None:
    import torch

    from llmforge.distributed.environment import find_place
    from llmforge.plugins import build_manager
    from llmforge.run.plan import make_plan
    from llmforge.run.setup.build import prepare_engine

    recipe = _recipe(keys)
    plan, vocabulary = make_plan(recipe), int(keys["tokenizer.bpe.vocab_size"])
    components = plan.components()
    used = [components[kind][0] for kind in ("model", "optimizer", "schedule", "backend")]
    context = plan.context(
        resolved={}, notice=lambda text: print(text, file=sys.stderr), place=find_place()
    )
    engine = prepare_engine(build_manager(used), context, SimpleNamespace(vocab_size=vocabulary))
    ids = torch.randint(vocabulary, (recipe.train.micro_batch_size or 1, recipe.context))
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
