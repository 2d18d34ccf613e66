"""The backend that shards over all ranks with PyTorch's ``fully_shard``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from llmforge.interfaces import Engine, LanguageModel, RunContext, model_blocks
from llmforge_plugins.backends._engine import compile_blocks, recompute
from llmforge_plugins.backends._fsdp_engine import FsdpEngine
from llmforge_plugins.backends._needs import require_group
from llmforge_plugins.backends._resolve import explained, resolve, take_device
from llmforge_plugins.backends._state import trainable


class FsdpBackend:
    """Implements :class:`llmforge.interfaces.Backend` over the default process group.

    Args:
        run: the run it works for.
        reshard_after_forward: whether a block's whole weights are freed after its forward pass.
        cpu_offload: whether shards live in host memory.
        reduce_every_micro_batch: whether gradients are exchanged after each micro-batch.
    """

    def __init__(
        self,
        run: RunContext,
        *,
        reshard_after_forward: bool,
        cpu_offload: bool,
        reduce_every_micro_batch: bool,
    ) -> None:
        self._run = run
        self._reshard_after_forward = reshard_after_forward
        self._cpu_offload = cpu_offload
        self._reduce_every_micro_batch = reduce_every_micro_batch

    def prepare(
        self,
        model_factory: Callable[[], LanguageModel],
        optimizer_factory: Callable[[list[tuple[str, Any]]], Any],
        schedule: Callable[[int], float],
    ) -> Engine:
        """Build the model on the host, so that it starts alike everywhere, and shard it.

        Raises:
            RecipeError: this machine lacks what the recipe asks for.
            RunError: the ranks are not connected.
        """
        resolution = resolve(self._run)
        device = take_device(resolution)
        model = model_factory()
        module = cast("nn.Module", model)
        recomputed = recompute(module, self._run.train.activation_checkpointing)
        if resolution.compile:
            compile_blocks(module)
        require_group(self._run)
        mesh = init_device_mesh(device.type, (self._run.world_size,))
        self._shard(module, mesh, bf16=resolution.precision == "bf16")
        register_fsdp_forward_method(module, "loss")
        model.train()
        held = sum(cast("DTensor", p).to_local().numel() for _, p in model.named_parameters())
        whole = sum(p.numel() for _, p in model.named_parameters())
        return FsdpEngine(
            model,
            optimizer_factory(trainable(model)),
            schedule,
            resolution=explained(
                resolution,
                f"fully sharded over {mesh.size()} ranks: this one holds {held:,} of {whole:,} "
                "weights, their gradients and optimizer state",
                recomputed=recomputed,
            ),
            grad_clip=self._run.train.grad_clip,
            mesh=mesh,
            reshard_after_forward=self._reshard_after_forward,
            reduce_every_micro_batch=self._reduce_every_micro_batch,
        )

    def _shard(self, module: nn.Module, mesh: DeviceMesh, *, bf16: bool) -> None:
        """Shard every block, then the rest; gradients are summed over ranks, not averaged."""
        pinned = mesh.device_type == "cuda"
        policy: dict[str, Any] = {
            "mesh": mesh,
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32
            ),
            "offload_policy": (
                CPUOffloadPolicy(pin_memory=pinned) if self._cpu_offload else OffloadPolicy()
            ),
        }
        for block in model_blocks(module):
            fully_shard(block, reshard_after_forward=self._reshard_after_forward, **policy)
        fully_shard(module, **policy)
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)
