"""Products with int8 weights on a CPU: the ways to compute them, and which is fastest here.

All ways compute the same: inputs rounded to bf16 times whole numbers, summed in fp32, the sum
rounded to bf16. So which one is taken changes no result but for the order of the sum. PyTorch's
kernel is fast with inputs in bf16 alone; figures are in ``benchmarks/results/``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from llmforge.matmul_speed import measure_matmul_speed

_ALIGNMENT = 32
"""PyTorch's int8 kernel reads this many inputs at once, and past the end of a row of fewer."""
_PIECE = 1 << 19
"""Weights that are widened at once: as fp32 they take 2 MB, which stay in cache."""

_TRIED_ROWS = (1, 2, 4, 8, 16, 32)
_TRIED_WEIGHTS = 1 << 21  # of a larger matrix only so many are tried, which tells as much
_REPEATS = 5
_SHORTEST = 2e-4  # seconds; what is faster is timed several times in a row


def int8_product(rows: Tensor, weight: Tensor, scale: Tensor, *, most_packed: int) -> Tensor:
    """Return ``rows @ weight.T * scale`` in fp32, [rows, outputs].

    Args:
        rows: [rows, inputs], of any floating type.
        weight: int8 [outputs, inputs], contiguous.
        scale: fp32 [outputs].
        most_packed: most rows for which PyTorch's int8 kernel is taken; with more the weights are
            widened, piece by piece. See :func:`packed_rows`.
    """
    rows = rows.to(torch.bfloat16).contiguous()
    multiply = _packed if rows.shape[0] <= most_packed else _widened
    return multiply(rows, weight) * scale


@cache
def packed_rows(outputs: int, inputs: int) -> int:
    """Return the most rows for which PyTorch's int8 kernel is faster than widening the weights.

    Measured for a matrix [outputs, inputs] on this CPU, with the threads it has. Takes some tens of
    milliseconds, once in a process.
    """
    if inputs % _ALIGNMENT or not hasattr(torch, "_weight_int8pack_mm"):
        return 0
    tried = max(1, min(outputs, _TRIED_WEIGHTS // inputs))
    weight, scale = torch.ones(tried, inputs, dtype=torch.int8), torch.ones(tried)

    def seconds(rows: Tensor, *, packed: bool) -> float:
        most = rows.shape[0] if packed else 0
        return shortest_time(lambda: int8_product(rows, weight, scale, most_packed=most))

    found = 0
    with torch.inference_mode():
        for count in _TRIED_ROWS:
            rows = torch.ones(count, inputs)
            if seconds(rows, packed=True) > seconds(rows, packed=False):
                break
            found = count
    return found


def _packed(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply by PyTorch's kernel, which reads the weights as they are."""
    product: Tensor = torch._weight_int8pack_mm(rows, weight, _ones(weight.shape[0]))
    return product


def _widened(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply piece by piece with weights as numbers the CPU multiplies fastest."""
    dtype = torch.bfloat16 if measure_matmul_speed().bf16_is_native else torch.float32
    wide = rows.to(dtype)
    size = max(1, _PIECE // weight.shape[1])
    if weight.shape[0] <= size:
        return (wide @ weight.to(dtype).t()).to(rows.dtype)
    product = rows.new_empty(rows.shape[0], weight.shape[0])
    for start in range(0, weight.shape[0], size):
        piece = weight[start : start + size].to(dtype)
        product[:, start : start + size] = wide @ piece.t()
    return product


@cache
def _ones(count: int) -> Tensor:
    """Return the scales of a kernel that shall not scale.

    Scales are applied to its result, in fp32. Some kernels read four of them at once.
    """
    with torch.inference_mode(False):
        return torch.ones(count + 4, dtype=torch.bfloat16)[:count]


def shortest_time(call: Callable[[], object]) -> float:
    """Return the shortest time of some calls in seconds, the first one left out."""
    # time of this thread, which takes part in all products: what else the machine does is left out
    fine = time.get_clock_info("thread_time").resolution < _SHORTEST / 100
    clock = time.thread_time if fine else time.perf_counter
    call()
    start = clock()
    call()
    calls = max(1, int(_SHORTEST / max(clock() - start, 1e-6)))
    found = []
    for _ in range(_REPEATS):
        start = clock()
        for _ in range(calls):
            call()
        found.append((clock() - start) / calls)
    return min(found)
