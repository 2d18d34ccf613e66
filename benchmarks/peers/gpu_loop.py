"""A hand-written loop of GPT-2 with 124 million parameters on a GPU, as nanoGPT trains it.

    python benchmarks/peers/gpu_loop.py [--eager] [--seconds 20]

Bf16 autocast, ``torch.compile``, PyTorch's fused attention and AdamW, random tokens, 32 x 1,024
tokens a step in micro-batches of 16, as ``benchmarks/model_sizes.py`` has ``gpt2-124m``. One line
comes out: tokens per second, and the share of the GPU's bf16 peak when ``--peak`` (in TFLOP/s)
is given.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from peers.case import Case
from peers.plain import Gpt

MICRO, ACCUMULATED, CONTEXT, VOCABULARY = 16, 2, 1024, 50_304  # a vocabulary as nanoGPT pads it


def main() -> None:
    """Train for a while and print the speed."""
    parser = argparse.ArgumentParser(description="a nanoGPT-style loop on a GPU")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--seconds", type=float, default=20.0, help="of training")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the GPU in bf16")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU that PyTorch can use")
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    case = Case(
        layers=12,
        width=768,
        heads=12,
        context=CONTEXT,
        batch=MICRO,
        vocabulary=VOCABULARY,
        warmup=0,
        steps=0,
        folder="",
    )
    torch.set_default_device("cuda")
    model = Gpt(case)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), fused=True)
    step = model if arguments.eager else torch.compile(model)
    times: list[float] = []
    begin = None
    while begin is None or time.perf_counter() - begin < arguments.seconds:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(ACCUMULATED):
            batch = torch.randint(VOCABULARY, (MICRO, CONTEXT + 1))
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = step(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
            (loss / ACCUMULATED).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        if begin is None:  # the first step compiles
            begin = time.perf_counter()
        else:
            times.append(time.perf_counter() - start)
    rate = MICRO * ACCUMULATED * CONTEXT / statistics.median(times)
    flops = 6 * parameters + 12 * case.layers * case.width * CONTEXT
    share = f", MFU {flops * rate / arguments.peak / 1e12:.1%}" if arguments.peak else ""
    memory = torch.cuda.max_memory_allocated() / 1e9
    print(f"{parameters:,} parameters: {rate:,.0f} tokens/s{share}, {memory:.2f} GB")


if __name__ == "__main__":
    main()
