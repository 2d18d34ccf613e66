"""Choosing between the backends for several processes by what fits on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from llmforge.interfaces import Backend, Engine, LanguageModel, RunContext
from llmforge_plugins.backends._ddp import DdpBackend
from llmforge_plugins.backends._fsdp import FsdpBackend
from llmforge_plugins.backends._needs import sharding_problems
from llmforge_plugins.backends._resolve import resolve

_BYTES_PER_WEIGHT = 16  # fp32: the weight, its gradient and the optimizer's two moments
_SHARE = 0.6  # of a GPU's memory; activations and logits have the rest


class AutoBackend:
    """Implements :class:`llmforge.interfaces.Backend` for several ranks.

    ``ddp`` where weights, gradients and optimizer state fit on one GPU, or there is none; ``fsdp``
    where they do not.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run

    def prepare(
        self,
        model_factory: Callable[[], LanguageModel],
        optimizer_factory: Callable[[list[tuple[str, Any]]], Any],
        schedule: Callable[[int], float],
    ) -> Engine:
        """Choose by the size of the model, which is built without memory for that, and prepare.

        Raises:
            RecipeError, RunError: as the backend that was chosen.
        """
        chosen: Backend = DdpBackend(self._run)
        device = torch.device(resolve(self._run).device)
        if device.type == "cuda" and not sharding_problems(self._run, backend="fsdp"):
            total = torch.cuda.get_device_properties(device).total_memory
            if not fits(count_weights(model_factory), memory=total):
                chosen = FsdpBackend(
                    self._run,
                    reshard_after_forward=True,
                    cpu_offload=False,
                    reduce_every_micro_batch=False,
                )
        return chosen.prepare(model_factory, optimizer_factory, schedule)


def count_weights(model_factory: Callable[[], LanguageModel]) -> int:
    """Return how many weights the model has, without memory for them."""
    with torch.device("meta"):
        return sum(weight.numel() for _, weight in model_factory().named_parameters())


def fits(weights: int, *, memory: int) -> bool:
    """Return whether a model of so many weights can be trained whole in so many bytes."""
    return weights * _BYTES_PER_WEIGHT <= memory * _SHARE
