"""Tokens per second of the sampler against ``transformers`` and llama.cpp on the same weights.

Each contender lives in a process of its own; the rounds take turns, so that whatever else the
machine does meets all alike. A ratio is the median over the rounds, with the smallest and largest.
On a busy machine ``--clock cpu --threads 1`` compares processor time instead of wall time.

    python benchmarks/generate.py                      # needs: pip install -e '.[bench]'
    python benchmarks/generate.py --sizes 4x256 --batches 1 --rounds 9 --model default
    python benchmarks/generate.py --modes greedy --contenders "llmforge fp32" "llmforge int8"

The first contender is what the others are compared with. ``same`` says, of greedy texts, how many
tokens are those of the first contender before one is another.

llama.cpp takes part if there is a Python that has it, ``--llama-python``: its package is built from
source (``pip install llama-cpp-python`` with cmake and a compiler), best in an environment of its
own. It is given one text at a time.

Prompt lookup needs weights that have learned something, and prompts: ``generate_trained.py`` trains
a small model of Python's standard library, and says how to go on.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from generate_contenders import CONTEXT, MODELS, MODES, VOCABULARY

CONTENDERS = (
    "transformers fp32",
    "transformers bf16",
    "llmforge fp32",
    "llmforge bf16",
    "llmforge int8",
)
LOOKUP = tuple(f"llmforge {kind} lookup" for kind in ("fp32", "bf16", "int8"))
LLAMA_CPP = tuple(f"llama.cpp {kind}" for kind in ("fp32", "bf16", "f16", "q8_0"))
WORKER = str(Path(__file__).with_name("generate_contenders.py"))


class Contender:
    """A process that generates on request."""

    def __init__(self, case: dict[str, Any], python: str) -> None:
        self._tokens = case["tokens"]
        self._process = subprocess.Popen(
            [python, WORKER, "work", json.dumps(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def generate(self, prompts: list[list[int]], *, mode: str) -> tuple[float, list[list[int]]]:
        """Return tokens per second of one call, and the tokens."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "mode": mode}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a contender ended; what it said is above")
        answer = json.loads(line)
        return len(prompts) * self._tokens / answer["seconds"], answer["tokens"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


def measure(size: str, arguments: argparse.Namespace) -> None:
    """Print the table rows of one model size."""
    layers, width = (0, 0) if arguments.run else map(int, size.split("x"))
    texts = _texts(arguments)
    with tempfile.TemporaryDirectory() as folder:
        case = {
            "layers": layers,
            "width": width,
            "context": arguments.prompt + arguments.tokens,
            "tokens": arguments.tokens,
            "model": arguments.model,
            "run": arguments.run,
            "threads": arguments.threads,
            "clock": arguments.clock,
            "folder": folder,
            "gguf": [name.split()[1] for name in arguments.contenders if name in LLAMA_CPP],
        }
        if not all(name.startswith("llmforge") for name in arguments.contenders):
            subprocess.run([sys.executable, WORKER, "export", json.dumps(case)], check=True)
        contenders: dict[str, Contender] = {}
        try:
            for name in arguments.contenders:
                python = arguments.llama_python if name in LLAMA_CPP else sys.executable
                contenders[name] = Contender({**case, "contender": name}, python)
            for batch, (text, ids), mode in product(arguments.batches, texts, arguments.modes):
                label = " ".join(part for part in (size, text) if part)
                _measure(label, batch, mode, ids, contenders, arguments)
        finally:
            for contender in contenders.values():
                contender.close()


def _measure(
    label: str,
    batch: int,
    mode: str,
    ids: list[int],
    contenders: dict[str, Contender],
    arguments: argparse.Namespace,
) -> None:
    """Print the table rows of one text, batch and mode."""
    names = [name for name in contenders if batch == 1 or name not in LLAMA_CPP]
    rates: dict[str, list[float]] = {name: [] for name in names}
    same: dict[str, list[int]] = {name: [] for name in names}
    draw = random.Random(1)
    for index in range(arguments.rounds + 1):
        prompts = [_prompt(ids, arguments.prompt, draw) for _ in range(batch)]
        wanted: list[list[int]] | None = None
        for name in names:
            rate, tokens = contenders[name].generate(prompts, mode=mode)
            wanted = wanted or tokens
            same[name] += map(_agreed, wanted, tokens)
            if index:  # the first round warms up
                rates[name].append(rate)
    for name in names:
        found = f"{statistics.median(same[name]):.0f}" if mode == "greedy" else ""
        print(_row(label, batch, mode, name, rates, found), flush=True)


def _prompt(ids: list[int], count: int, draw: random.Random) -> list[int]:
    if not ids:
        return [draw.randrange(VOCABULARY) for _ in range(count)]
    begin = draw.randrange(len(ids) - count)
    return ids[begin : begin + count]


def _texts(arguments: argparse.Namespace) -> list[tuple[str, list[int]]]:
    """Return what prompts are taken from, by name; no tokens for random ones."""
    if not arguments.run:
        return [("", [])]
    return [
        (Path(file).stem, json.loads(Path(file).read_text(encoding="utf-8")))
        for file in arguments.prompts
    ]


def _agreed(wanted: list[int], found: list[int]) -> int:
    """Return how many tokens are equal before one is another."""
    pairs = enumerate(zip(wanted, found, strict=True))
    return next((place for place, (one, other) in pairs if one != other), len(wanted))


def _row(
    label: str, batch: int, mode: str, name: str, rates: dict[str, list[float]], same: str
) -> str:
    ratios = [
        mine / base for mine, base in zip(rates[name], next(iter(rates.values())), strict=True)
    ]
    spread = f"{statistics.median(ratios):7.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return (
        f"{label:12} {batch:5} {mode:13} {name:20} {statistics.median(rates[name]):9,.0f} "
        f"{spread:24} {same}"
    ).rstrip()


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    known = (*CONTENDERS, *LOOKUP, *LLAMA_CPP)
    parser.add_argument("--sizes", nargs="+", default=["4x256", "6x384"], help="LAYERSxWIDTH")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=known)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--model", default="gpt2", choices=list(MODELS), help="its form")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens per text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="PyTorch's own choice when 0")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--run", help="a run's folder: its weights in place of random ones")
    parser.add_argument("--prompts", nargs="+", default=[], help="files of token ids, for --run")
    parser.add_argument("--llama-python", help="a Python that has llama_cpp, for llama.cpp")
    arguments = parser.parse_args()
    if bool(arguments.run) != bool(arguments.prompts):
        parser.error("--run and --prompts belong together")
    if not arguments.run and any(name in LOOKUP for name in arguments.contenders):
        parser.error("random weights repeat themselves: lookup needs --run and --prompts")
    if not arguments.run and arguments.prompt + arguments.tokens > CONTEXT:
        parser.error(f"--prompt and --tokens are at most {CONTEXT} together")
    if any(name in LLAMA_CPP for name in arguments.contenders):
        if not arguments.llama_python:
            print("llama.cpp is left out: --llama-python is not given", file=sys.stderr)
            arguments.contenders = [name for name in arguments.contenders if name not in LLAMA_CPP]
        elif not arguments.threads:
            parser.error("llama.cpp chooses other threads than PyTorch: give --threads")
    return arguments


def main() -> None:
    """Run the benchmark."""
    arguments = _read_arguments()
    header = (
        "size",
        "batch",
        "mode",
        "contender",
        "tokens/s",
        f"ratio to {arguments.contenders[0]}",
        "same",
    )
    print("{:12} {:5} {:13} {:20} {:>9} {:24} {}".format(*header))
    for size in [""] if arguments.run else arguments.sizes:
        measure(size, arguments)


if __name__ == "__main__":
    main()
