"""Products with int8 weights on a CPU: the ways to compute them, and which is fastest here.

All ways compute the same: inputs rounded to bf16 times whole numbers, summed in fp32, the sum
rounded to bf16. So which one is taken changes no result but for the order of the sum.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from llmforge.matmul_speed import measure_matmul_speed

_ALIGNMENT = 32
"""PyTorch's int8 kernel reads this many inputs at once, and past the end of a row of fewer."""
_PIECE = 1 << 19
"""Weights that are widened at once: as fp32 they take 2 MB, which stay in cache."""

_TRIED_ROWS = (1, 2, 4, 8, 16, 32)
_TRIED_WEIGHTS = 1 << 21  # of a larger matrix only so many are tried, which tells as much
_REPEATS = 5
_SHORTEST = 2e-4  # seconds; what is faster is timed several times in a row


@dataclass(frozen=True, kw_only=True)
class Int8Speed:
    """How products with a matrix of one shape are computed fastest.

    Attributes:
        packed_rows: most rows for which PyTorch's int8 kernel is taken; with more the weights are
            widened, piece by piece.
        one_row: seconds of a product of one row.
        one_row_fp32: the same by PyTorch in fp32, from fp32 weights.
    """

    packed_rows: int
    one_row: float
    one_row_fp32: float


def int8_product(rows: Tensor, weight: Tensor, scale: Tensor, *, packed_rows: int) -> Tensor:
    """Return ``rows @ weight.T * scale`` in fp32, [rows, outputs].

    Args:
        rows: [rows, inputs], of any floating type.
        weight: int8 [outputs, inputs], contiguous.
        scale: fp32 [outputs].
        packed_rows: as in :class:`Int8Speed`.
    """
    rows = rows.to(torch.bfloat16).contiguous()
    multiply = _packed if rows.shape[0] <= packed_rows else _widened
    return multiply(rows, weight) * scale


@cache
def measure_int8_speed(outputs: int, inputs: int) -> Int8Speed:
    """Return what is fastest for a matrix [outputs, inputs] on this CPU, with the threads it has.

    Takes some tens of milliseconds, once in a process.
    """
    tried = max(1, min(outputs, _TRIED_WEIGHTS // inputs))
    share = outputs / tried
    weight, scale = torch.ones(tried, inputs, dtype=torch.int8), torch.ones(tried)
    plain = torch.ones(tried, inputs)

    def seconds(count: int, *, packed: bool) -> float:
        rows = torch.ones(count, inputs)
        most = count if packed else 0
        return _seconds(lambda: int8_product(rows, weight, scale, packed_rows=most))

    knows = inputs % _ALIGNMENT == 0 and hasattr(torch, "_weight_int8pack_mm")
    packed_rows, one_row = 0, 0.0
    with torch.inference_mode():
        for count in _TRIED_ROWS:
            widened = seconds(count, packed=False)
            packed = seconds(count, packed=True) if knows else math.inf
            one_row = one_row or min(widened, packed)
            if packed > widened:
                break
            packed_rows = count
        row = torch.ones(1, inputs)
        fp32 = _seconds(lambda: functional.linear(row, plain))
    return Int8Speed(packed_rows=packed_rows, one_row=share * one_row, one_row_fp32=share * fp32)


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


def _seconds(call: Callable[[], object]) -> float:
    """Return the shortest time of a call, the first one left out."""
    call()
    start = time.perf_counter()
    call()
    calls = max(1, int(_SHORTEST / max(time.perf_counter() - start, 1e-9)))
    found = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        found.append((time.perf_counter() - start) / calls)
    return min(found)
