"""The repeated layers of a model: what is sharded, compiled and recomputed one by one."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the layers a model is a stack of: of its module lists, the one with most weights.

    Lists within a layer do not count. A model without such a list has no blocks.
    """
    stacks: list[list[nn.Module]] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and module not in inside:
            stacks.append(list(module))
            inside.update(part for layer in module for part in layer.modules())
    return max(stacks, key=_weights, default=[])


def _weights(stack: list[nn.Module]) -> int:
    return sum(parameter.numel() for layer in stack for parameter in layer.parameters())


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
    chosen = blocks(model)[:: 1 if asked == "full" else asked]
    for block in chosen:
        # on the instance: names, hooks and state stay the block's own
        block.forward = partial(_forward, block, block.forward)
    return len(chosen)


def _forward(block: nn.Module, forward: Any, *args: Any, **keywords: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **keywords)
    return checkpoint(forward, *args, use_reentrant=False, **keywords)
