"""Which of several ways to compute the same thing this process takes.

Every way gives the same result up to rounding. Which is the fastest differs by processor, library
build and shape, so a run measures them before its first step (``_measure_kernels``) and says here
what it takes. What was not measured is computed as the module at hand has it by default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

PLAIN = "torch"
"""The way that plain PyTorch has."""

_chosen: dict[str, str] = {}


def use_kernels(chosen: Mapping[str, str]) -> None:
    """Take these ways, by what is computed, and the default for anything else."""
    _chosen.clear()
    _chosen.update(chosen)


def chosen_kernel(name: str) -> str | None:
    """Return the way to compute ``name``; None for the default."""
    return _chosen.get(name)


@contextlib.contextmanager
def using_kernels(chosen: Mapping[str, str]) -> Iterator[None]:
    """Take only these ways for the block."""
    before = dict(_chosen)
    use_kernels(chosen)
    try:
        yield
    finally:
        use_kernels(before)


def linear_name(operation: str, outputs: int, inputs: int) -> str:
    """Return what a linear map's ``operation`` (forward, input or weight gradient) is called."""
    return f"linear {outputs}x{inputs} {operation}"
