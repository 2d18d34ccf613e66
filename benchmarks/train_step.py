"""Tokens per second of the real ``forge train`` loop against what else one would use on a CPU.

    python benchmarks/train_step.py                    # needs: pip install -e '.[bench]'
    python benchmarks/train_step.py --sizes 4x256 --rounds 5 --json out.json

Contenders, each in a process of its own for every round, taking turns:

* ``plain``: a hand-written GPT-2 loop in eager fp32 PyTorch (``peers/plain.py``);
* ``trainer``: ``transformers.Trainer`` on ``GPT2LMHeadModel``, fp32;
* ``forge fp32`` and ``forge auto``: llmforge with logging, data loading and checkpoints on,
  precision fp32 or what ``auto`` chooses; with ``-ckpt`` without checkpoints, with ``compiled``
  after ``torch.compile`` (which the warm-up has to wait for).

All train the same architecture (GPT-2's) on the same tokens with AdamW, clipping and a cosine.
``forge auto default`` shows llmforge's default architecture instead: rotary positions, RMSNorm,
SwiGLU. A ratio is the median over the rounds of (contender / plain of the same round), with the
smallest and largest. On a busy machine ``--clock cpu --threads 1`` compares processor time instead
of wall time. The peak is the resident memory of the process, imports included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers.case import Case, write_text
from peers.worker import in_own_process

VOCABULARY = 8192
SIZES = {"4x256": (4, 256, 128, 16), "6x384": (6, 384, 256, 8)}  # layers, width, context, batch
BASE = "plain"
CONTENDERS = (
    BASE,
    "trainer",
    "forge fp32",
    "forge auto",
    "forge fp32 -ckpt",
    "forge auto -ckpt",
    "forge auto default",
    "forge fp32 compiled",
    "forge auto compiled",
)
CHECKPOINT_EVERY = 20


def work(contender: str, case: Case) -> None:
    """Be one contender."""
    import torch

    if case.threads:
        torch.set_num_threads(case.threads)
    if contender == BASE:
        from peers import plain

        plain.run(case)
    elif contender == "trainer":
        from peers import hugging_face

        hugging_face.run(case)
    else:
        from peers import forge

        forge.run(case, precision=contender.split()[1])


def case_of(size: str, contender: str, folder: Path, arguments: argparse.Namespace) -> Case:
    """Return what ``contender`` has to do at one size."""
    layers, width, context, batch = SIZES[size]
    return Case(
        layers=layers,
        width=width,
        heads=width // 64,
        context=context,
        batch=batch,
        vocabulary=VOCABULARY,
        warmup=arguments.warmup,
        steps=arguments.steps,
        folder=str(folder),
        threads=arguments.threads,
        clock=arguments.clock,
        checkpoint_every=0 if contender.endswith("-ckpt") else CHECKPOINT_EVERY,
        default_model=contender.endswith("default"),
        compiled=contender.endswith("compiled"),
    )


def measure(contender: str, case: Case) -> dict[str, float]:
    """Run a contender in a process of its own and return what it reports."""
    caches = {"XDG_CACHE_HOME": case.folder, "FORGE_CACHE": case.folder}
    found = in_own_process(__file__, contender, case.to_json(), **caches)
    result: dict[str, float] = json.loads(found)
    return result


def compare(size: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and return the rows of one size."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.contenders}
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder), VOCABULARY)
        for number in range(arguments.rounds):
            for name in arguments.contenders:
                result = measure(name, case_of(size, name, Path(folder), arguments))
                results[name].append(result)
                rate = result["tokens_per_second"]
                print(f"  {size} round {number + 1}: {name} {rate:,.0f}", file=sys.stderr)
    rows = [_row(size, name, results) for name in arguments.contenders]
    for row in rows:
        print(_line(row), flush=True)
    return rows


def _row(size: str, name: str, results: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    rates = [result["tokens_per_second"] for result in results[name]]
    base = [result["tokens_per_second"] for result in results[BASE]]
    return {
        "size": size,
        "contender": name,
        "tokens_per_second": statistics.median(rates),
        "ratios": [rate / other for rate, other in zip(rates, base, strict=True)],
        "peak_megabytes": max(result["peak_megabytes"] for result in results[name]),
        "loss": results[name][-1]["loss"],
    }


def _line(row: dict[str, Any]) -> str:
    ratios = row["ratios"]
    return (
        f"{row['size']:7} {row['contender']:20} {row['tokens_per_second']:9,.0f} "
        f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
        f"{row['peak_megabytes']:10,.0f}"
    )


def main() -> None:
    """Run the benchmark."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Case(**json.loads(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=20, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=40, help="timed steps")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; its own choice when 0")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    if BASE not in arguments.contenders:
        arguments.contenders.insert(0, BASE)
    if arguments.warmup % 10 or arguments.steps % 10:
        parser.error("--warmup and --steps must be multiples of 10, the logging interval")
    print(f"{'size':7} {'contender':20} {'tokens/s':>9} ratio to {BASE:13} {'peak MB':>10}")
    rows = [row for size in arguments.sizes for row in compare(size, arguments)]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
