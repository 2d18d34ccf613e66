"""Fine-tuning on instructions: llmforge against transformers' Trainer and TRL's SFTTrainer.

    python benchmarks/fine_tuning.py                   # needs: pip install -e '.[bench]'
    python benchmarks/fine_tuning.py --sizes 4x256 --rounds 5 --json out.json

All train GPT-2's architecture (learned positions, LayerNorm, GELU, biases, tied embeddings) with a
vocabulary of 8,000 on the same rows: log-normal lengths with median 67, at most 256 tokens, of
which the answers are scored. Batches have 16 rows: 16 examples, or 16 packed rows of 256. AdamW,
clipping and a cosine; no dropout, no checkpoints. Everyone computes in fp32; ``--precision auto``
lets llmforge choose.

Contenders, each in a process of its own for every round, taking turns:

* ``trainer``: ``transformers.Trainer`` with ``DataCollatorForSeq2Seq``, padded to the longest row;
* ``trl``: TRL's ``SFTTrainer``, padded by its own collator;
* ``trl packed``: the same with ``packing=True``: its default strategy keeps examples apart;
* ``trl wrapped``: packing by cutting one long text, in which examples see each other;
* ``forge``: llmforge with ``packing = false``; ``forge packed``: with ``packing = "auto"``;
* ``forge hf`` and ``forge hf packed``: the same on the very model of ``transformers``.

``--lora 16`` trains LoRA of that rank on all linear maps of the blocks, the trainer's by peft.

Rates count real tokens, never padding, and scored ones. A ratio is the median over the rounds of
(contender / trainer of the same round), with the smallest and largest. On a busy machine
``--clock cpu --threads 1`` compares processor time. The peak is the resident memory of the process,
imports included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers.instructions import Instructions, write_rows
from peers.worker import in_own_process

VOCABULARY, CONTEXT, BATCH, ROWS = 8_000, 256, 16, 8_000
SIZES = {"4x256": (4, 256), "6x384": (6, 384)}  # layers, width
BASE = "trainer"
SAVED = "saved model"
"""No contender: writes the folder that pre-trained ones start from."""
OWN = ("forge", "forge packed")
PRETRAINED = ("forge hf", "forge hf packed")
CONTENDERS = (BASE, "trl", "trl packed", "trl wrapped", *OWN)
LORA_CONTENDERS = (BASE, *PRETRAINED, *OWN)
STRATEGIES = {"trl": None, "trl packed": "bfd", "trl wrapped": "wrapped"}


def work(contender: str, case: Instructions) -> None:
    """Be one contender."""
    import torch

    if case.threads:
        torch.set_num_threads(case.threads)
    if contender.startswith("forge"):
        from peers import instructions_forge

        instructions_forge.run(
            case, packing=contender.endswith("packed"), pretrained="hf" in contender.split()
        )
        return
    from peers import instructions_trainers

    if contender == SAVED:
        instructions_trainers.save_model(case)
        return
    if contender == BASE:
        instructions_trainers.run_trainer(case)
    else:
        instructions_trainers.run_trl(case, STRATEGIES[contender])


def run(contender: str, case: Instructions) -> str:
    """Run a contender in a process of its own and return the last line it printed."""
    variables = dict.fromkeys(("HF_HOME", "XDG_CACHE_HOME", "FORGE_CACHE"), case.folder)
    if case.threads:
        variables["OMP_NUM_THREADS"] = str(case.threads)
    return in_own_process(__file__, contender, case.to_json(), **variables)


def compare(size: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and return the rows of one size."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.contenders}
    layers, width = SIZES[size]
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), count=ROWS, vocabulary=VOCABULARY, context=CONTEXT)
        case = Instructions(
            layers=layers,
            width=width,
            context=CONTEXT,
            batch=BATCH,
            vocabulary=VOCABULARY,
            warmup=arguments.warmup,
            steps=arguments.steps,
            folder=folder,
            threads=arguments.threads,
            clock=arguments.clock,
            precision=arguments.precision,
            lora=arguments.lora,
        )
        run(SAVED, case)
        for number in range(arguments.rounds):
            for name in arguments.contenders:
                result: dict[str, float] = json.loads(run(name, case))
                results[name].append(result)
                shown = ", ".join(f"{key} {value:,.1f}" for key, value in result.items())
                print(f"  {size} round {number + 1}: {name}: {shown}", file=sys.stderr)
    rows = [_row(size, name, results) for name in arguments.contenders]
    for row in rows:
        print(_line(row), flush=True)
    return rows


def _row(size: str, name: str, results: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    own, base = results[name], results[BASE]

    def ratios(key: str) -> list[float]:
        return [mine[key] / other[key] for mine, other in zip(own, base, strict=True)]

    return {
        "size": size,
        "contender": name,
        "real": statistics.median(result["real_tokens_per_second"] for result in own),
        "scored": statistics.median(result["scored_tokens_per_second"] for result in own),
        "tokens_per_step": own[-1]["tokens_per_step"],
        "ratios": ratios("real_tokens_per_second"),
        "scored_ratios": ratios("scored_tokens_per_second"),
        "peak_megabytes": max(result["peak_megabytes"] for result in own),
        "peak_ratio": statistics.median(ratios("peak_megabytes")),
        "loss": own[-1]["loss"],
    }


def _line(row: dict[str, Any]) -> str:
    ratios = row["ratios"]
    return (
        f"{row['size']:6} {row['contender']:15} {row['real']:9,.0f} {row['scored']:9,.0f} "
        f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
        f"{statistics.median(row['scored_ratios']):6.2f} "
        f"{row['peak_megabytes']:9,.0f} {row['peak_ratio']:6.2f}"
    )


def main() -> None:
    """Run the benchmark."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Instructions(**json.loads(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    every = (*CONTENDERS, *PRETRAINED)
    parser.add_argument("--contenders", nargs="+", choices=every)
    parser.add_argument("--lora", type=int, default=0, help="rank of LoRA; all weights when 0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=5, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; its own choice when 0")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "auto"])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    if arguments.contenders is None:
        arguments.contenders = list(LORA_CONTENDERS if arguments.lora else CONTENDERS)
    if BASE not in arguments.contenders:
        arguments.contenders.insert(0, BASE)
    print(
        f"{'size':6} {'contender':15} {'real/s':>9} {'scored/s':>9} ratio to {BASE:13} scored "
        f"{'peak MB':>9}  ratio"
    )
    rows = [row for size in arguments.sizes for row in compare(size, arguments)]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
