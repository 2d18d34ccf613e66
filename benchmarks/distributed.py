"""What llmforge's distributed engines cost over bare DDP and DeepSpeed loops, taking turns.

    python benchmarks/distributed.py                          # engines, 2 processes
    python benchmarks/distributed.py --only ddp,zero-2 --rounds 40 --json out.json
    python benchmarks/distributed.py --through train          # whole `forge train` runs

Both sides train the same model on the same shapes with AdamW, clipping, a schedule and two
micro-batches a step over gloo (NCCL where there are GPUs).

* ``--through engine``: in one start of all ranks a bare loop and an engine take turns, a few steps
  each, in the other order every round, so that a busy moment of the machine hits both. What is
  timed is accumulate and step.
* ``--through train``: whole runs of ``forge train --nproc-per-node N`` against whole starts of the
  bare loop. The time of a step is the median over ``timing.jsonl``'s rows; data, logging and the
  journal are on, checkpoints are off.

On a busy machine ``--clock cpu`` compares the processor time of rank 0 instead of wall time.
The ratio is llmforge's time over the bare loop's of the same round: the median over the rounds,
with the 95 % interval of the median by bootstrap.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

KINDS = ("ddp", "zero-1", "zero-2", "zero-3")
SHAPE = {"layers": 4, "width": 256, "heads": 4, "kv_heads": 4, "context": 128}
VOCABULARY, MICRO, ROUNDS_PER_STEP = 256, 4, 2
RATE, CLIP, WARMUP = 1e-3, 1.0, 6


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description="what distributed engines cost over bare loops")
    parser.add_argument("--through", choices=("engine", "train"), default="engine")
    parser.add_argument("--only", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--steps", type=int, default=4, help="a turn; in train mode of a run")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of the engines")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    parser.add_argument("--bare", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        bare_run(arguments)
        return
    found: dict[str, list[tuple[float, float]]] = {}
    for kind in arguments.only.split(","):
        run = engine_rounds if arguments.through == "engine" else train_rounds
        found[kind] = run(kind, arguments)
        report(kind, found[kind])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def report(kind: str, rounds: Sequence[tuple[float, float]]) -> None:
    """Print one line: seconds of a step on either side and the ratio with its interval."""
    ratios = [forge / bare for bare, forge in rounds]
    low, high = interval(ratios)
    bare, forge = (statistics.median(side) for side in zip(*rounds, strict=True))
    print(
        f"{kind:7} bare {bare * 1e3:8.1f} ms  llmforge {forge * 1e3:8.1f} ms  "
        f"ratio {statistics.median(ratios):.4f} [{low:.4f}, {high:.4f}] over {len(ratios)} rounds",
        flush=True,
    )


def interval(values: Sequence[float], *, draws: int = 4000) -> tuple[float, float]:
    """Return the 95 % interval of the median by bootstrap."""
    source = random.Random(0)
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


# Engines against bare loops in one start --------------------------------------------------------


def engine_rounds(kind: str, arguments: argparse.Namespace) -> list[tuple[float, float]]:
    """Return seconds per step of the bare loop and of the engine, round by round."""
    import torch.multiprocessing

    with tempfile.TemporaryDirectory() as name:
        torch.multiprocessing.spawn(
            _take_turns, (kind, arguments, Path(name)), nprocs=arguments.ranks
        )
        rounds = json.loads((Path(name) / "rounds.json").read_text(encoding="utf-8"))
    return [(bare, forge) for bare, forge in rounds]


def _take_turns(rank: int, kind: str, arguments: argparse.Namespace, folder: Path) -> None:
    import torch.distributed as dist

    device = connect(rank, arguments.ranks, folder)
    contenders = (
        bare_stepper(kind, arguments.precision, device),
        forge_stepper(kind, arguments.precision, device, folder / str(rank)),
    )
    for step in contenders:
        for number in range(WARMUP):
            step(number)
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    rounds = []
    for index in range(arguments.rounds):
        seconds = [0.0, 0.0]
        for side in (0, 1) if index % 2 else (1, 0):
            synchronise(device)
            dist.barrier()
            begin = clock()
            for number in range(arguments.steps):
                contenders[side](WARMUP + index * arguments.steps + number)
            synchronise(device)
            dist.barrier()
            seconds[side] = (clock() - begin) / arguments.steps
        rounds.append(seconds)
    if rank == 0:
        (folder / "rounds.json").write_text(json.dumps(rounds), encoding="utf-8")
    dist.destroy_process_group()


def connect(rank: int, ranks: int, folder: Path) -> Any:
    """Join the process group and return this rank's device."""
    import torch
    import torch.distributed as dist

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    gpus = torch.cuda.device_count() >= ranks
    if not gpus:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=ranks,
    )
    if gpus:
        torch.cuda.set_device(rank)
    return torch.device("cuda", rank) if gpus else torch.device("cpu")


def synchronise(device: Any) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def make_model() -> Any:
    """Return the model that both sides train."""
    import torch

    from llmforge_plugins.models._shape import Shape, default_feed_forward
    from llmforge_plugins.models._transformer import TransformerModel

    torch.manual_seed(1)
    shape = Shape(**SHAPE, feed_forward=default_feed_forward(SHAPE["width"], "swiglu"))
    return TransformerModel(shape, vocab_size=VOCABULARY)


def make_batch(number: int) -> dict[str, Any]:
    """Return a micro-batch on the host."""
    import torch

    source = torch.Generator().manual_seed(number)
    tokens = torch.randint(VOCABULARY, (MICRO, SHAPE["context"] + 1), generator=source)
    return {"inputs": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()}


def make_optimizer(named: Any) -> Any:
    """Return AdamW, as a recipe's."""
    import torch

    from llmforge_plugins.optimizers.adamw import decay_groups

    groups = decay_groups(named, lr=RATE, weight_decay=0.1)
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)


def schedule(step: int) -> float:
    """Return the factor of the learning rate."""
    return 1 / (1 + 0.01 * step)


def forge_stepper(kind: str, precision: str, device: Any, folder: Path) -> Callable[[int], Any]:
    """Return a function that takes one step with llmforge's engine."""
    import torch.distributed as dist

    from llmforge.plugins import load
    from llmforge.testing import make_component, run_context

    run = run_context(
        folder,
        train={"precision": precision, "grad_clip": CLIP, "device": device.type},
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
    )
    name, _, stage = kind.partition("-")
    options = {"stage": int(stage)} if stage else {}
    backend: Any = make_component(load("backend", "deepspeed" if stage else name), options)
    engine = backend.forge_build_backend(run=run).prepare(make_model, make_optimizer, schedule)
    targets = MICRO * SHAPE["context"] * ROUNDS_PER_STEP * dist.get_world_size()

    def step(number: int) -> None:
        for index in range(ROUNDS_PER_STEP):
            last = index == ROUNDS_PER_STEP - 1
            batch = make_batch(number * ROUNDS_PER_STEP + index)
            engine.accumulate(batch, targets=targets, seed=number, last=last)
        engine.step(number)

    return step


def bare_stepper(kind: str, precision: str, device: Any) -> Callable[[int], Any]:
    """Return a function that takes one step with PyTorch or DeepSpeed alone."""
    if kind == "ddp":
        return _bare_ddp(precision, device)
    return _bare_zero(int(kind[-1]), precision, device)


def _mean_loss(model: Any) -> Any:
    from torch import nn

    class MeanLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Any, targets: Any) -> Any:
            total, _ = self.model.loss({"inputs": inputs, "targets": targets})
            return total / targets.numel()

    return MeanLoss()


def _bare_ddp(precision: str, device: Any) -> Callable[[int], Any]:
    import contextlib

    import torch
    from torch.nn.parallel import DistributedDataParallel

    model = make_model().to(device)
    optimizer = make_optimizer(list(model.named_parameters()))
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    parallel = DistributedDataParallel(_mean_loss(model), gradient_as_bucket_view=True)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def step(number: int) -> None:
        for index in range(ROUNDS_PER_STEP):
            batch = make_batch(number * ROUNDS_PER_STEP + index)
            last = index == ROUNDS_PER_STEP - 1
            with contextlib.nullcontext() if last else parallel.no_sync():
                with bf16:
                    loss = parallel(*(tensor.to(device) for tensor in batch.values()))
                (loss / ROUNDS_PER_STEP).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()

    return step


def _bare_zero(stage: int, precision: str, device: Any) -> Callable[[int], Any]:
    import torch

    from llmforge_plugins.backends._deepspeed_import import captured_output, import_deepspeed

    deepspeed = import_deepspeed(device.type)
    model = make_model()
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": MICRO,
        "gradient_accumulation_steps": ROUNDS_PER_STEP,
        "gradient_clipping": CLIP,
        "communication_data_type": "fp32",
        "steps_per_print": None,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": sum(p.numel() for p in model.parameters()),
        },
    }
    if precision == "bf16":
        config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    optimizer = make_optimizer(list(model.named_parameters()))
    with captured_output():
        engine, *_ = deepspeed.initialize(
            model=_mean_loss(model),
            optimizer=optimizer,
            lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, schedule),
            config=config,
            dist_init_required=False,
        )

    def step(number: int) -> None:
        for index in range(ROUNDS_PER_STEP):
            batch = make_batch(number * ROUNDS_PER_STEP + index)
            engine.backward(engine(*(tensor.to(device) for tensor in batch.values())))
            engine.step()

    return step


# Whole runs ---------------------------------------------------------------------------------------


def train_rounds(kind: str, arguments: argparse.Namespace) -> list[tuple[float, float]]:
    """Return seconds per step of a bare start and of a ``forge train``, round by round."""
    steps = max(arguments.steps, 3 * WARMUP)
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_recipe(folder, kind, steps, arguments)
        for index in range(arguments.rounds):
            seconds = [0.0, 0.0]
            for side in (0, 1) if index % 2 else (1, 0):
                measure = _time_bare if side == 0 else _time_forge
                seconds[side] = measure(folder, kind, index, steps, arguments)
            rounds.append((seconds[0], seconds[1]))
    return rounds


def _write_recipe(folder: Path, kind: str, steps: int, arguments: argparse.Namespace) -> None:
    source = random.Random(1)
    lines = ("".join(source.choices("abcdefgh ", k=120)) for _ in range(4000))
    (folder / "words.txt").write_text("\n".join(lines), encoding="utf-8")
    name, _, stage = kind.partition("-")
    table = (
        f'name = "deepspeed"\n[backend.deepspeed]\nstage = {stage}' if stage else f'name = "{name}"'
    )
    (folder / "recipe.toml").write_text(
        f"""\
[model]
name = "transformer"
[model.transformer]
layers = {SHAPE["layers"]}
width = {SHAPE["width"]}
heads = {SHAPE["heads"]}
context = {SHAPE["context"]}
[tokenizer]
name = "bytes"
[data]
name = "text"
[data.text]
path = "words.txt"
document = "line"
validation_fraction = 0.02
[train]
max_steps = {steps}
batch_size = {MICRO * ROUNDS_PER_STEP * arguments.ranks}
micro_batch_size = {MICRO}
precision = "{arguments.precision}"
compile = false
log_every = 1
[checkpoint]
enabled = false
[backend]
{table}
""",
        encoding="utf-8",
    )


def _time_forge(
    folder: Path, kind: str, index: int, steps: int, arguments: argparse.Namespace
) -> float:
    del steps
    root = folder / f"runs-{kind}-{index}"
    command = [sys.executable, "-m", "llmforge", "train", "recipe.toml"]
    command += ["--nproc-per-node", str(arguments.ranks), "--set", f"run.root={root}"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (timing,) = root.glob("*/timing.jsonl")
    rows = [json.loads(line) for line in timing.read_text(encoding="utf-8").splitlines()]
    return statistics.median(row["seconds"] for row in rows[WARMUP:])


def _time_bare(
    folder: Path, kind: str, index: int, steps: int, arguments: argparse.Namespace
) -> float:
    out = folder / f"bare-{kind}-{index}.json"
    command = [sys.executable, __file__, "--bare", kind, "--ranks", str(arguments.ranks)]
    command += ["--steps", str(steps), "--precision", arguments.precision, "--json", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _median_gap(json.loads(out.read_text(encoding="utf-8")))


def _median_gap(stamps: Sequence[float]) -> float:
    gaps = [after - before for before, after in itertools.pairwise(stamps)]
    return statistics.median(gaps[WARMUP:])


def bare_run(arguments: argparse.Namespace) -> None:
    """Train with the bare loop alone and write the time at the end of every step."""
    import torch.multiprocessing

    with tempfile.TemporaryDirectory() as name:
        torch.multiprocessing.spawn(_bare_rank, (arguments, Path(name)), nprocs=arguments.ranks)


def _bare_rank(rank: int, arguments: argparse.Namespace, folder: Path) -> None:
    device = connect(rank, arguments.ranks, folder)
    step = bare_stepper(arguments.bare, arguments.precision, device)
    stamps = []
    for number in range(arguments.steps):
        step(number)
        synchronise(device)
        stamps.append(time.time())
    if rank == 0:
        arguments.json.write_text(json.dumps(stamps), encoding="utf-8")
    # Gloo's threads may still give back tensors of DeepSpeed's last gather, which aborts a
    # process whose interpreter is already ending.
    os._exit(0)


if __name__ == "__main__":
    main()
