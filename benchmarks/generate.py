"""Tokens per second of the sampler against ``transformers`` ``generate`` on a GPT-2 of its shape.

Each contender lives in a process of its own; the rounds take turns, so that whatever else the
machine does meets all alike. A ratio is the median over the rounds, with the smallest and largest.
On a busy machine ``--clock cpu --threads 1`` compares processor time instead of wall time.

    python benchmarks/generate.py                      # needs: pip install -e '.[bench]'
    python benchmarks/generate.py --sizes 4x256 --batches 1 --rounds 9 --model default
    python benchmarks/generate.py --modes greedy --contenders "llmforge fp32" "llmforge int8"

The first contender is what the others are compared with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

VOCABULARY = 8192
CONTEXT = 256
PROMPT = 16
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": True},
    "temperature": {"temperature": 0.8},
    "top-k, top-p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "top-p": {"temperature": 0.8, "top_p": 0.95},
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"positions": "learned", "norm": "layernorm", "activation": "gelu", "bias": True},
    "default": {},
}
CONTENDERS = (
    "transformers fp32",
    "transformers bf16",
    "llmforge fp32",
    "llmforge bf16",
    "llmforge int8",
)

Generate = Callable[[list[list[int]], dict[str, Any]], None]


class Numbers:
    """A tokenizer whose texts are numbers, so that no time goes into text."""

    vocab_size = VOCABULARY
    eos_id = None
    fingerprint = "numbers"

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the numbers in each text."""
        return [[int(number) for number in text.split()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the numbers as text."""
        return " ".join(map(str, ids))


def llmforge_generate(case: dict[str, Any]) -> Generate:
    """Return llmforge's transformer under its sampler."""
    from llmforge.generation.int8_layers import quantise_layers
    from llmforge.interfaces import GenerationRequest
    from llmforge_plugins.generation._sampler import TextSampler
    from llmforge_plugins.generation.sampler import Sampler
    from llmforge_plugins.models._transformer import TransformerModel
    from llmforge_plugins.models.transformer import Transformer

    options = Transformer.Options(
        layers=case["layers"],
        width=case["width"],
        heads=case["heads"],
        context=CONTEXT,
        **MODELS[case["model"]],
    )
    model = TransformerModel(options.shape(), vocab_size=VOCABULARY).eval().to(_dtype(case))
    if case["contender"].endswith("int8"):
        quantise_layers(model)

    def generate(prompts: list[list[int]], mode: dict[str, Any]) -> None:
        sampler = TextSampler(
            Sampler.Options(max_new_tokens=case["tokens"], **mode),
            model=model,
            tokenizer=Numbers(),  # type: ignore[arg-type]
            notice=print,
        )
        texts = [" ".join(map(str, prompt)) for prompt in prompts]
        done = sampler.generate(GenerationRequest(prompts=texts))
        assert all(item.tokens == case["tokens"] for item in done)

    return generate


def transformers_generate(case: dict[str, Any]) -> Generate:
    """Return GPT-2 of the same shape under ``transformers`` ``generate``."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=case["width"],
        n_layer=case["layers"],
        n_head=case["heads"],
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval().to(_dtype(case))

    def generate(prompts: list[list[int]], mode: dict[str, Any]) -> None:
        settings: dict[str, Any] = {"do_sample": False}
        if not mode.get("greedy"):
            settings = {"do_sample": True, "top_k": 0, **mode}
        inputs = torch.tensor(prompts)
        done = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=case["tokens"],
            pad_token_id=0,
            **settings,
        )
        assert done.shape[1] == PROMPT + case["tokens"]

    return generate


def work(case: dict[str, Any]) -> None:
    """Be one contender: time a call for each line on standard input."""
    import torch

    torch.manual_seed(1)
    if case["threads"]:
        torch.set_num_threads(case["threads"])
    clock = time.process_time if case["clock"] == "cpu" else time.perf_counter
    make = llmforge_generate if case["contender"].startswith("llmforge") else transformers_generate
    generate = make(case)
    for line in sys.stdin:
        order = json.loads(line)
        prompts = torch.randint(VOCABULARY, (order["batch"], PROMPT)).tolist()
        began = clock()
        generate(prompts, MODES[order["mode"]])
        print(clock() - began, flush=True)


class Contender:
    """A process that generates on request."""

    def __init__(self, case: dict[str, Any]) -> None:
        self._tokens = case["tokens"]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", json.dumps(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def rate(self, *, batch: int, mode: str) -> float:
        """Return tokens per second of one call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"batch": batch, "mode": mode}) + "\n")
        self._process.stdin.flush()
        return batch * self._tokens / float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


def measure(size: str, arguments: argparse.Namespace) -> None:
    """Print the table rows of one model size."""
    layers, width = map(int, size.split("x"))
    case = {
        "layers": layers,
        "width": width,
        "heads": max(1, width // 64),
        "tokens": arguments.tokens,
        "model": arguments.model,
        "threads": arguments.threads,
        "clock": arguments.clock,
    }
    names = arguments.contenders
    contenders = {name: Contender({**case, "contender": name}) for name in names}
    try:
        for batch, mode in product(arguments.batches, arguments.modes):
            rates: dict[str, list[float]] = {name: [] for name in names}
            for index in range(arguments.rounds + 1):
                for name, contender in contenders.items():
                    rate = contender.rate(batch=batch, mode=mode)
                    if index:  # the first round warms up
                        rates[name].append(rate)
            for name in names:
                print(_row(size, batch, mode, name, rates), flush=True)
    finally:
        for contender in contenders.values():
            contender.close()


def _row(size: str, batch: int, mode: str, name: str, rates: dict[str, list[float]]) -> str:
    ratios = [
        mine / base for mine, base in zip(rates[name], next(iter(rates.values())), strict=True)
    ]
    return (
        f"{size:7} {batch:5} {mode:13} {name:18} {statistics.median(rates[name]):9,.0f} "
        f"{statistics.median(ratios):7.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def _dtype(case: dict[str, Any]) -> Any:
    import torch

    return torch.bfloat16 if case["contender"].endswith("bf16") else torch.float32


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", default=["4x256", "6x384"], help="LAYERSxWIDTH")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--model", default="gpt2", choices=list(MODELS), help="llmforge's variant")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens per text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; its own choice when 0")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(json.loads(arguments.work))
        return
    header = (
        "size",
        "batch",
        "mode",
        "contender",
        "tokens/s",
        f"ratio to {arguments.contenders[0]}",
    )
    print("{:7} {:5} {:13} {:18} {:>9} {}".format(*header))
    for size in arguments.sizes:
        measure(size, arguments)


if __name__ == "__main__":
    main()
