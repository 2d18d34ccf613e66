"""Which parameters decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Parameter


def decay_groups(
    parameters: Iterable[tuple[str, Parameter]], *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return parameter groups in which matrices decay; scales and biases do not.

    Empty groups are left out. Each carries ``initial_lr``, the peak the schedule scales.
    """
    named = list(parameters)
    groups = (
        ([p for _, p in named if p.dim() >= 2], weight_decay),
        ([p for _, p in named if p.dim() < 2], 0.0),
    )
    return [
        {"params": members, "lr": lr, "initial_lr": lr, "weight_decay": decay}
        for members, decay in groups
        if members
    ]
