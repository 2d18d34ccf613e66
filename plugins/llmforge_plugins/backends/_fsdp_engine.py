"""The engine of one rank among several that share weights, gradients and optimizer state."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

from llmforge.interfaces import (
    Batch,
    EngineState,
    LanguageModel,
    Resolution,
    Slice,
    flat_part,
)
from llmforge_plugins.backends import _state
from llmforge_plugins.backends._engine import SingleEngine

_TINY = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class FsdpEngine(SingleEngine):
    """Implements :class:`llmforge.interfaces.Engine` over a model that ``fully_shard`` sharded.

    Shards, gradients and optimizer state are fp32; in bf16 weights are gathered in bf16 and
    gradients summed over ranks in fp32. A rank holds rows of each parameter, so its state is one
    contiguous slice of each.
    """

    def __init__(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        *,
        resolution: Resolution,
        grad_clip: float,
        mesh: DeviceMesh,
        reshard_after_forward: bool,
        reduce_every_micro_batch: bool,
    ) -> None:
        super().__init__(model, optimizer, schedule, resolution=resolution, grad_clip=grad_clip)
        self._mesh = mesh
        self._root = cast("FSDPModule", model)
        self._sharded = [
            part for part in cast("nn.Module", model).modules() if isinstance(part, FSDPModule)
        ]
        self._reshard_after_forward = reshard_after_forward
        self._reduce_every_micro_batch = reduce_every_micro_batch

    def accumulate(self, batch: Batch, *, targets: int, seed: int, last: bool) -> None:
        """Add the gradients of one micro-batch of this rank; the last one exchanges them."""
        self._root.set_requires_gradient_sync(last or self._reduce_every_micro_batch)
        super().accumulate(batch, targets=targets, seed=seed, last=last)

    def discard(self) -> None:
        """Drop all gradients and sums accumulated since the last step."""
        super().discard()
        for part in self._sharded:
            group = part._get_fsdp_state()._fsdp_param_group
            for parameter in group.fsdp_params if group is not None else ():
                parameter.unsharded_accumulated_grad = None
                if hasattr(parameter, "_unsharded_param"):
                    parameter._unsharded_param.grad = None

    def gradients(self) -> dict[str, Tensor]:
        """Return nothing: no rank holds a whole gradient."""
        return {}

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return summed loss and target count of this rank's batch, on the device."""
        try:
            return super().evaluate(batch)
        finally:
            self._root.reshard()  # only a backward pass would, and state is read from shards

    @contextlib.contextmanager
    def gathered(self) -> Iterator[LanguageModel]:
        """Keep all weights whole, in the precision they are computed in, for the block."""
        for part in self._sharded:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
        try:
            yield self.model
        finally:
            for part in self._sharded:
                part.reshard()
                # what the root gathered stays for the backward pass, which begins with it
                again = self._reshard_after_forward and part is not self._root
                part.set_reshard_after_forward(again, recurse=False)

    def state(self) -> EngineState:
        """Return live references to this rank's shards; nothing is gathered."""
        optimizer, values = _state.optimizer_state(self.model, self.optimizer)
        slices: dict[str, Slice] = {}
        return EngineState(
            self._local(_state.model_state(self.model), slices),
            self._local(optimizer, slices),
            values,
            slices,
        )

    def load_state(self, state: EngineState) -> None:
        """Take over this rank's part of ``state``, reading no other.

        Raises:
            CheckpointError: a name or shape does not fit this model or optimizer.
        """
        self._root.reshard()
        _state.check_model_state(self.model, state.model)

        def part(name: str, parameter: nn.Parameter, shaped_alike: bool) -> Tensor:
            if not (shaped_alike and isinstance(parameter, DTensor)):
                return state.optimizer[name].clone()
            local = torch.empty_like(parameter.to_local())
            self._fill(local, parameter, state.optimizer, name)
            return DTensor.from_local(
                local,
                self._mesh,
                (Shard(0),),
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )

        _state.load_optimizer_state(
            self.model, self.optimizer, state.optimizer, state.values, take=part
        )
        with torch.no_grad():
            for name, own in _state.model_state(self.model).items():
                if isinstance(own, DTensor):
                    self._fill(own.to_local(), own, state.model, name)
                else:
                    own.copy_(state.model[name])
        self.discard()

    def _compiled(self, loss: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor]]:
        return loss  # its blocks are compiled, one by one

    def _clip(self) -> Tensor:
        """Return the norm over all ranks, scaling gradients down to the largest one allowed."""
        gradients = [
            cast("DTensor", p.grad).to_local() for p in self._parameters if p.grad is not None
        ]
        squared = nn.utils.get_total_norm(gradients).to(self.device).square()
        dist.all_reduce(squared, group=self._mesh.get_group())
        norm = squared.sqrt()
        # on a CPU the norm can be looked at for free, and most steps need no second pass
        if self._grad_clip and (self.device.type != "cpu" or not norm <= self._grad_clip):
            factor = (self._grad_clip / (norm + _TINY)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor.to(gradients[0].device))
        return norm

    def _local(self, tensors: Mapping[str, Tensor], slices: dict[str, Slice]) -> dict[str, Tensor]:
        """Return this rank's parts, flat, and put down in ``slices`` which parts they are."""
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if not isinstance(tensor, DTensor):
                found[name] = tensor
                continue
            local = tensor.to_local()
            if self._mesh.size() == 1:
                found[name] = local
            elif local.numel():  # with fewer rows than ranks some have none
                found[name] = local.reshape(-1)
                slices[name] = Slice(tuple(tensor.shape), self._begin(tensor))
        return found

    def _fill(self, local: Tensor, of: DTensor, saved: Mapping[str, Tensor], name: str) -> None:
        """Copy this rank's part of the whole tensor ``name`` into ``local``."""
        if local.numel():
            part = flat_part(saved, name, begin=self._begin(of), count=local.numel())
            local.copy_(part.view(local.shape))

    def _begin(self, tensor: DTensor) -> int:
        """Return where this rank's rows begin in the whole; parts are equal but the last."""
        rows = -(-tensor.shape[0] // self._mesh.size())
        return min(self._mesh.get_local_rank() * rows, tensor.shape[0]) * tensor.shape[1:].numel()
