"""Data parallelism: every rank has the whole model and computes its share of each batch."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from llmforge.errors import RunError
from llmforge.interfaces import Batch, Engine, LanguageModel, Resolution, RunContext
from llmforge_plugins.backends._engine import SingleEngine
from llmforge_plugins.backends._single import SingleBackend

_NO_SYNC_OF_BUFFERS: dict[str, Any] = next(
    {name: False}
    for name in ("forward_sync_buffers", "broadcast_buffers")  # since torch 2.13, and before
    if name in inspect.signature(DistributedDataParallel).parameters
)

_ORDER_MATTERS = 3  # ranks: the sum of two numbers is the same either way round


class DdpEngine(SingleEngine):
    """Implements :class:`llmforge.interfaces.Engine` with PyTorch's DistributedDataParallel.

    Weights and optimizer state are whole and equal on every rank; gradients are averaged while
    the last backward pass of a step is still running.
    """

    def __init__(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        *,
        resolution: Resolution,
        grad_clip: float,
    ) -> None:
        super().__init__(model, optimizer, schedule, resolution=resolution, grad_clip=grad_clip)
        self._ranks = dist.get_world_size()
        self._settled = self._ranks < _ORDER_MATTERS
        self._parallel = DistributedDataParallel(
            _Loss(model),
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **_NO_SYNC_OF_BUFFERS,  # they are computed from the recipe, the same everywhere
        )
        self._loss = self._compiled(self._parallel)

    def accumulate(self, batch: Batch, *, targets: int, seed: int, last: bool) -> None:
        """Add the gradients of one micro-batch; they are exchanged after the last one."""
        if not self._settled:
            self._settle(batch, seed=seed)
        with contextlib.nullcontext() if last else self._parallel.no_sync():
            # gradients are averaged over ranks, each of which divides by its share of the targets
            self._backward(batch, divisor=targets / self._ranks, seed=seed)

    def _settle(self, batch: Batch, *, seed: int) -> None:
        """Let the exchange find its order of parameters, which it changes after the first one.

        Sums over several ranks are added in an order that depends on it. A run that is resumed
        must not compute its first step in another than the run it resumes from.
        """
        self._settled = True
        self._backward(batch, divisor=1.0, seed=seed)
        self.discard()


class _Loss(nn.Module):
    """A module whose forward pass is the model's loss, as DistributedDataParallel needs it."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = cast("nn.Module", model)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return cast("LanguageModel", self.model).loss(batch)


class DdpBackend(SingleBackend):
    """Implements :class:`llmforge.interfaces.Backend` for several ranks, each with its device."""

    engine = DdpEngine

    def reasons(self) -> tuple[str, ...]:
        """Return where weights, gradients and optimizer state are."""
        ranks = self._run.world_size
        return (f"ddp: weights, gradients and optimizer state whole on each of {ranks} ranks",)

    def prepare(
        self,
        model_factory: Callable[[], LanguageModel],
        optimizer_factory: Callable[[list[tuple[str, Any]]], Any],
        schedule: Callable[[int], float],
    ) -> Engine:
        """Build the model on every rank, alike.

        Raises:
            RecipeError: the recipe asks for a device or precision this machine does not have.
            RunError: the ranks are not connected.
        """
        if not dist.is_initialized() or dist.get_world_size() != self._run.world_size:
            raise RunError(
                f"backend 'ddp' has {self._run.world_size} processes that are not connected",
                remedy="start them with: forge train RECIPE --nproc-per-node N",
            )
        return super().prepare(model_factory, optimizer_factory, schedule)


def ddp_or_single(run: RunContext) -> SingleBackend:
    """Return the backend for ``run``: a single process has nobody to exchange gradients with."""
    return DdpBackend(run) if run.world_size > 1 else SingleBackend(run)
