"""The optimizer ``adamw``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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

        from llmforge_plugins.optimizers._groups import decay_groups

        options = self.options
        return torch.optim.AdamW(
            decay_groups(parameters, lr=options.lr, weight_decay=options.weight_decay),
            lr=options.lr,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            fused=True,
        )
