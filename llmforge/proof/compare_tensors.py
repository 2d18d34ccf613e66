"""Comparing the tensors of two checkpoints, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.checkpoint import load_tensors
from llmforge.checkpoint.format import Part
from llmforge.proof.certificate import Difference

if TYPE_CHECKING:
    from torch import Tensor


def different_tensors(
    reference: Path, killed: Path, *, part: Part, step: int, tolerance: float
) -> Iterator[Difference]:
    """Yield a difference for each tensor that is not the same, in the checkpoint's own order.

    Args:
        reference: a checkpoint directory.
        killed: the other one.
        part: ``model`` or ``optimizer``.
        step: both are of.
        tolerance: as a share of the largest value of a tensor; 0 compares bits.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    mine, theirs = (load_tensors(path, part) for path in (reference, killed))
    for name in mine:
        if name not in theirs:
            yield Difference(step=step, name=name, what="is missing")
        elif found := _difference(mine[name], theirs[name], tolerance):
            what, largest = found
            yield Difference(step=step, name=name, what=what, largest=largest)
    for name in theirs:
        if name not in mine:
            yield Difference(step=step, name=name, what="is not in the other one")


def _difference(mine: Tensor, theirs: Tensor, tolerance: float) -> tuple[str, float | None] | None:
    import torch

    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        shapes = [f"{tuple(item.shape)} of {item.dtype}" for item in (theirs, mine)]
        return f"{shapes[0]}, not {shapes[1]}", None
    if torch.equal(_bits(mine), _bits(theirs)):
        return None
    if not mine.is_floating_point():
        gap = (mine.long() - theirs.long()).abs()
        return f"{int((gap > 0).sum()):,} of {gap.numel():,} values differ", float(gap.max())
    gap = (mine.double() - theirs.double()).abs()
    largest = float(gap.nan_to_num(nan=float("inf")).max())
    if tolerance and largest <= tolerance * float(mine.double().abs().max()):
        return None
    unequal = int((_bits(mine) != _bits(theirs)).sum())
    return f"{unequal:,} of {gap.numel():,} values differ", largest


def _bits(tensor: Tensor) -> Tensor:
    """Return the tensor as whole numbers, so that NaN equals itself and -0.0 is not 0.0."""
    import torch

    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    size = tensor.element_size()
    return tensor.reshape(-1).view(kinds[size]) if size in kinds else tensor
