"""How fast this machine's CPU multiplies matrices in bf16 and in fp32, measured.

Processors that cannot multiply bf16 natively still do it, at a fiftieth of the speed of fp32. What
a processor says of itself does not tell: libraries may be held to older instructions, by variables
such as ``ONEDNN_MAX_CPU_ISA`` or by how they were built. A product takes milliseconds, and tells.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SIZE = 256  # large enough for the fast kernels, small enough for 12 ms where bf16 is emulated
_REPEATS = 3
_NOTICEABLE = 1.25  # native bf16 is 2 to 16 times as fast as fp32, emulated 0.02 to 1 times


@dataclass(frozen=True, kw_only=True)
class MatmulSpeed:
    """How fast a CPU multiplies matrices.

    Attributes:
        bf16_is_native: whether bf16 is the faster of the two.
        fp32: GFLOP/s in fp32.
        bf16: GFLOP/s in bf16.
    """

    bf16_is_native: bool
    fp32: float
    bf16: float

    def __str__(self) -> str:
        return f"bf16 products run at {self.bf16:.3g} GFLOP/s, fp32 at {self.fp32:.3g}"

    def slowdown(self) -> str | None:
        """Return in words how much slower than fp32 bf16 is; None where it is about as fast."""
        if self.bf16 * _NOTICEABLE >= self.fp32:
            return None
        times = self.fp32 / self.bf16
        return f"bf16 is {times:.{0 if times >= 10 else 1}f} times slower than fp32 ({self})"


@cache
def measure_matmul_speed() -> MatmulSpeed:
    """Return the speeds of this process's CPU, with the threads it has; measured once.

    Takes a few milliseconds, about 50 where bf16 is emulated.
    """
    import torch

    fastest = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(_SIZE, _SIZE, dtype=dtype, device="cpu")
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            torch.mm(matrix, matrix)  # the first one prepares the kernel
            fastest[dtype] = min(_seconds(matrix) for _ in range(_REPEATS))
    fp32, bf16 = (2 * _SIZE**3 / seconds / 1e9 for seconds in fastest.values())
    return MatmulSpeed(bf16_is_native=bf16 > _NOTICEABLE * fp32, fp32=fp32, bf16=bf16)


def _seconds(matrix: torch.Tensor) -> float:
    import torch

    start = time.perf_counter()
    torch.mm(matrix, matrix)
    return time.perf_counter() - start
