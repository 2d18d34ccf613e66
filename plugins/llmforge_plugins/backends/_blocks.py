"""Computing the blocks of a model again in the backward pass, and compiling them one by one."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from llmforge.interfaces import model_blocks


def recompute(model: nn.Module, asked: Literal["none", "full"] | int) -> int:
    """Make blocks keep only their inputs for the backward pass and compute the rest again.

    Activation checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).
    Gradients keep their bits: random numbers are drawn alike the second time.

    Args:
        model: whose blocks.
        asked: ``"full"`` for every block, ``n`` for every n-th, the first among them.

    Returns:
        how many blocks are recomputed.
    """
    if asked == "none":
        return 0
    chosen = model_blocks(model)[:: 1 if asked == "full" else asked]
    for block in chosen:
        # on the instance: names, hooks and state stay the block's own
        block.forward = partial(_forward, block, block.forward)
    return len(chosen)


def compile_blocks(model: nn.Module) -> None:
    """Compile a sharded model block by block: gathering happens between them."""
    for block in model_blocks(model):
        block.compile()


def _forward(block: nn.Module, forward: Any, *args: Any, **keywords: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **keywords)
    return checkpoint(forward, *args, use_reentrant=False, **keywords)
