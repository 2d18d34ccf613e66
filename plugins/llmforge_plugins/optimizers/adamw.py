"""The optimizer ``adamw``, and which parameters decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

import llmforge
from llmforge import Component, hookimpl
from llmforge.interfaces import RunContext

if TYPE_CHECKING:
    import torch

Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Component, kind="optimizer"):
    """AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019), fused.

    Matrices and embeddings decay; scales and biases do not.
    """

    class Options(llmforge.Options):
        """Options of ``[optimizer.adamw]``."""

        lr: Rate = 1e-3
        """Peak learning rate."""
        weight_decay: Annotated[float, Field(ge=0)] = 0.1
        """Decay of matrices and embeddings, times the learning rate, in each step."""
        beta1: Share = 0.9
        """Decay of the running mean of gradients."""
        beta2: Share = 0.95
        """Decay of the running mean of squared gradients; 0.95 is usual for language models."""
        eps: Rate = 1e-8
        """Added to the root of the second moment."""

    @hookimpl
    def forge_build_optimizer(
        self, run: RunContext, parameters: list[tuple[str, torch.nn.Parameter]]
    ) -> torch.optim.Optimizer:
        """Build PyTorch's fused AdamW over the parameters."""
        del run
        import torch

        options = self.options
        return torch.optim.AdamW(
            decay_groups(parameters, lr=options.lr, weight_decay=options.weight_decay),
            lr=options.lr,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            fused=True,
        )


def decay_groups(
    parameters: Iterable[tuple[str, torch.nn.Parameter]], *, lr: float, weight_decay: float
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
