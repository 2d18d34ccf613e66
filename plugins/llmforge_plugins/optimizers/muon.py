"""The optimizer ``muon``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import llmforge
from llmforge import Component, hookimpl
from llmforge.interfaces import RunContext

if TYPE_CHECKING:
    import torch

Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Muon(Component, kind="optimizer"):
    """Muon for the hidden matrices, AdamW for embeddings, output, scales and biases.

    Momentum whose matrix is orthogonalised by Newton-Schulz iterations: Jordan et al., "Muon: An
    optimizer for hidden layers in neural networks" (2024); weight decay and the learning rate
    matched to AdamW's from Liu et al., "Muon is Scalable for LLM Training" (Moonshot, 2025). The
    iterations are computed in bf16 where the device does so natively, else in fp32.
    """

    class Options(llmforge.Options):
        """Options of ``[optimizer.muon]``."""

        lr: Rate = 1e-3
        """Peak learning rate of the hidden matrices."""
        adamw_lr: Rate = 1e-3
        """Peak learning rate of everything else."""
        momentum: Share = 0.95
        """Decay of the running mean of gradients."""
        nesterov: bool = True
        """Look one step ahead with the momentum."""
        weight_decay: Annotated[float, Field(ge=0)] = 0.1
        """Decay of hidden matrices, times the learning rate, in each step."""
        adamw_weight_decay: Annotated[float, Field(ge=0)] | None = None
        """The same of embeddings and output; ``weight_decay`` when absent."""
        momentum_warmup_steps: Annotated[int, Field(ge=0)] = 0
        """Steps in which the momentum rises from 0.85 to its value (modded nanoGPT, 2024)."""
        cautious_decay: bool = False
        """Let hidden matrices decay only where the update makes them smaller too (Chen et al.,
        "Cautious Weight Decay", 2025)."""
        normalised_rows: bool = False
        """Divide each row of an update by the root of its mean square over time (Li et al.,
        "NorMuon", 2025)."""
        ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
        """Newton-Schulz iterations."""
        adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
        """Scale updates to the size of AdamW's, or as Jordan et al. did."""
        beta1: Share = 0.9
        """AdamW's decay of the running mean of gradients."""
        beta2: Share = 0.95
        """AdamW's decay of the running mean of squared gradients."""
        eps: Rate = 1e-8
        """AdamW's term below the fraction."""

    @hookimpl
    def forge_build_optimizer(
        self, run: RunContext, parameters: list[tuple[str, torch.nn.Parameter]]
    ) -> torch.optim.Optimizer:
        """Build both optimizers as one; it orthogonalises in bf16 where that is native."""
        from llmforge_plugins.optimizers._muon import MuonWithAdamW

        options = self.options
        return MuonWithAdamW(
            parameters,
            in_bf16=all(run.bf16_is_native(p.device) for _, p in parameters),
            muon={
                "lr": options.lr,
                "weight_decay": options.weight_decay,
                "momentum": options.momentum,
                "nesterov": options.nesterov,
                "ns_steps": options.ns_steps,
                "adjust_lr_fn": options.adjust_lr,
            },
            variants={
                name: value
                for name, value in (
                    ("momentum_warmup", options.momentum_warmup_steps),
                    ("cautious_decay", options.cautious_decay),
                    ("normalised_rows", options.normalised_rows),
                )
                if value
            },
            adamw={
                "lr": options.adamw_lr,
                "weight_decay": (
                    options.weight_decay
                    if options.adamw_weight_decay is None
                    else options.adamw_weight_decay
                ),
                "betas": (options.beta1, options.beta2),
                "eps": options.eps,
            },
        )
