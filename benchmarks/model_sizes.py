"""Tokens per second, MFU and memory of ``forge train`` from 16 million to 1.4 billion parameters.

    python benchmarks/model_sizes.py                                  # all sizes, meant for a GPU
    python benchmarks/model_sizes.py --sizes tiny --steps 20          # what a CPU can do
    python benchmarks/model_sizes.py --ranks 8 --set backend.name=fsdp --markdown

Each size is trained by ``forge train`` on random tokens, as a process: data, logging and the
journal are on, checkpoints off. Tokens per second and MFU are the medians over the rows of
``timing.jsonl`` after the first ones; memory is the most that PyTorch's allocator gave out on a GPU
(``system/gpu_memory_peak_gb``), the most resident memory seen on a CPU.

Then a run that is stopped half way and started again is compared with one that is not:
``equal`` means the same bits in metrics and in the last checkpoint; otherwise the largest relative
difference of the training loss is shown. ``--no-resume`` leaves that out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 50_257
TOKENS = 4_000_000
LOG_EVERY, WARM_ROWS = 2, 3
RESUME_STEPS = 8
_GPT2: dict[str, Any] = {
    "positions": "learned",
    "norm": "layernorm",
    "activation": "gelu",
    "bias": True,
    "context": 1024,
}
SIZES: dict[str, tuple[dict[str, Any], int, int]] = {
    "tiny": ({"preset": "tiny", "context": 256}, 32, 16),
    "gpt2-124m": ({"layers": 12, "width": 768, "heads": 12, **_GPT2}, 32, 16),
    "gpt2-350m": ({"layers": 24, "width": 1024, "heads": 16, **_GPT2}, 32, 8),
    "neox-1.2b": ({"preset": "neox-1.2b", "context": 2048}, 16, 4),
}
"""Options of the model, sequences of a step and of a micro-batch, by name."""


def main() -> None:
    """Run every size and print a line each."""
    parser = argparse.ArgumentParser(description="speed and memory of forge train by size")
    parser.add_argument("--sizes", default=",".join(SIZES), help=f"of {', '.join(SIZES)}")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--ranks", type=int, default=1, help="processes")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets")
    parser.add_argument("--no-resume", action="store_true", help="leave the second part out")
    parser.add_argument("--markdown", action="store_true", help="print a table")
    arguments = parser.parse_args()
    columns = ("size", "parameters", "precision", "tokens/s", "MFU", "memory, GB", "resumed")
    line = "| {:9} | {:>13} | {:9} | {:>9} | {:>6} | {:>10} | {} |"
    if not arguments.markdown:
        line = line.replace("|", "").strip()
    print(line.format(*columns))
    if arguments.markdown:
        print("|---|---:|---|---:|---:|---:|---|")
    for name in arguments.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            print(line.format(name, *measure(name, Path(folder), arguments)), flush=True)


def measure(name: str, folder: Path, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the columns of one size."""
    write_recipe(folder, name)
    steps = {"train.max_steps": str(arguments.steps), "train.log_every": str(LOG_EVERY)}
    run = train(folder, "speed", arguments, **steps, **{"checkpoint.enabled": "false"})
    rows = read_rows(run / "timing.jsonl")[WARM_ROWS:]
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    shares = [row["mfu"] for row in rows if "mfu" in row]
    return (
        f"{parameters(run):,}",
        record["resolved"]["precision"],
        f"{statistics.median(row['tokens_per_second'] for row in rows):,.0f}",
        f"{statistics.median(shares):.1%}" if shares else "-",
        f"{peak_memory(run):.2f}",
        "-" if arguments.no_resume else resumed(folder, arguments),
    )


def write_recipe(folder: Path, name: str) -> None:
    """Write shards of random tokens and the recipe of a size."""
    model, batch, micro = SIZES[name]
    draw = np.random.default_rng(1)
    np.save(folder / "train.npy", draw.integers(VOCABULARY, size=TOKENS, dtype=np.uint16))
    options = "\n".join(f"{key} = {json.dumps(value)}" for key, value in model.items())
    (folder / "recipe.toml").write_text(
        f"""\
[model]
name = "transformer"
[model.transformer]
{options}
[tokenizer]
name = "ids"
[data]
name = "tokens"
[data.tokens]
train = "train.npy"
validation_fraction = 0
vocab_size = {VOCABULARY}
eos_id = 50256
[train]
batch_size = {batch}
micro_batch_size = {micro}
system_every = 1
""",
        encoding="utf-8",
    )


def train(folder: Path, root: str, arguments: argparse.Namespace, **keys: str) -> Path:
    """Train with ``keys`` below the directory ``root``; return the run's."""
    command = [sys.executable, "-m", "llmforge", "train", "recipe.toml"]
    if arguments.ranks > 1:
        command += ["--nproc-per-node", str(arguments.ranks)]
    for key, value in {**keys, "run.root": f'"{root}"'}.items():
        command += ["--set", f"{key}={value}"]
    command += [part for text in arguments.sets for part in ("--set", text)]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (run,) = (path.parent for path in (folder / root).glob("*/run.json"))
    return run


def resumed(folder: Path, arguments: argparse.Namespace) -> str:
    """Say how a run that was stopped half way compares with one that was not."""
    keys = {"train.max_steps": str(RESUME_STEPS), "train.log_every": "1"}
    keys |= {"checkpoint.every": str(RESUME_STEPS // 2), "checkpoint.keep_last": "1"}
    straight = fingerprint(train(folder, "straight", arguments, **keys))
    train(folder, "halves", arguments, **keys, **{"train.stop_at": str(RESUME_STEPS // 2)})
    halves = fingerprint(train(folder, "halves", arguments, **keys))
    if straight == halves:
        return "equal"
    pairs = zip(straight[0], halves[0], strict=True)
    return f"losses within {max(abs(one - other) / one for one, other in pairs):.1e}"


def fingerprint(run: Path) -> tuple[list[float], list[str]]:
    """Return training losses and hashes of the newest checkpoint's tensors."""
    losses = [row["train/loss"] for row in read_rows(run / "metrics.jsonl")]
    newest = max(path for path in (run / "checkpoints").glob("step-*") if path.is_dir())
    hashes = []
    for path in sorted(newest.glob("*.safetensors")):
        with path.open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return losses, hashes


def parameters(run: Path) -> int:
    """Return the parameters of the model as ``forge plan`` counts them."""
    command = [sys.executable, "-m", "llmforge", "plan", str(run / "recipe.toml"), "--json"]
    found = subprocess.run(command, cwd=run.parent.parent, check=True, capture_output=True)
    count: int = json.loads(found.stdout)["sizes"]["parameters"]
    return count


def peak_memory(run: Path) -> float:
    """Return the most memory of the device that was seen, in 10^9 bytes."""
    rows = read_rows(run / "system.jsonl")
    names = ("system/gpu_memory_peak_gb", "system/process_memory_gb")
    name = next(name for name in names if name in rows[-1])
    return max(row[name] for row in rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
