"""The engine of one device: accumulates micro-batches, steps, evaluates, hands out its state.

What other engines do with the blocks of a model is here, too: computing them again in the backward
pass, and compiling them one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmforge.interfaces import (
    Batch,
    EngineState,
    LanguageModel,
    Resolution,
    StepResult,
    model_blocks,
)
from llmforge_plugins.backends import _state

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class SingleEngine:
    """Implements :class:`llmforge.interfaces.Engine` on one device.

    Weights, gradients and optimizer state are fp32; in bf16 and fp16 only matrix products and
    what lies between them are computed in the smaller format (autocast).
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
        self.model = model
        self.optimizer = optimizer
        self.resolution = resolution
        self.device = torch.device(resolution.device)
        self._schedule = schedule
        self._grad_clip = grad_clip
        self._dtype = _DTYPES.get(resolution.precision)
        self._scaler = torch.amp.GradScaler(
            self.device.type, enabled=resolution.precision == "fp16"
        )
        self._loss = self._compiled(model.loss)
        self._parameters = [parameter for _, parameter in _state.trainable(model)]
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        self._loss_sum = torch.zeros((), device=self.device)

    def accumulate(self, batch: Batch, *, targets: int, seed: int, last: bool) -> None:
        """Add the gradients of one micro-batch; ``targets`` divides the loss."""
        del last  # there is nobody to exchange gradients with
        self._backward(batch, divisor=targets, seed=seed)

    def discard(self) -> None:
        """Drop all gradients and sums accumulated since the last step."""
        self.optimizer.zero_grad(set_to_none=True)
        self._loss_sum = torch.zeros_like(self._loss_sum)

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients accumulated since the last step, without the scaler's factor."""
        found = {
            name: parameter.grad
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        if not self._scaler.is_enabled():
            return found
        scale = self._scaler.get_scale()
        return {name: gradient / scale for name, gradient in found.items()}

    def step(self, step: int) -> StepResult:
        """Clip, apply the optimizer at schedule position ``step``, clear gradients."""
        factor = self._schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self._scaler.unscale_(self.optimizer)
        grad_norm = self._clip()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        result = StepResult(self._loss_sum, grad_norm, float(self.optimizer.param_groups[0]["lr"]))
        self._finite = self._finite & self._loss_sum.isfinite()
        if not self._scaler.is_enabled():  # the scaler skips steps that overflowed
            self._finite = self._finite & grad_norm.isfinite()
        self.discard()
        return result

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return summed loss and target count of a batch without gradients, on the device."""
        self.model.eval()
        try:
            with out_of_memory(), torch.no_grad(), self._autocast():
                return self.model.loss(self._on_device(batch))
        finally:
            self.model.train()

    def finite(self) -> bool:
        """Return whether every loss and gradient norm so far was finite. Synchronises."""
        return bool(self._finite)

    def gathered(self) -> contextlib.AbstractContextManager[LanguageModel]:
        """Return the model in a context: its weights are always whole here."""
        return contextlib.nullcontext(self.model)

    def state(self) -> EngineState:
        """Return live references to all state; the caller copies before the next step."""
        tensors, values = _state.optimizer_state(self.model, self.optimizer)
        if self._scaler.is_enabled():
            values["scaler"] = self._scaler.state_dict()
        return EngineState(_state.model_state(self.model), tensors, values)

    def load_state(self, state: EngineState) -> None:
        """Take over ``state``; nothing is changed if it does not fit.

        Raises:
            CheckpointError: a name or shape does not fit this model or optimizer.
        """
        _state.check_model_state(self.model, state.model)
        _state.load_optimizer_state(self.model, self.optimizer, state.optimizer, state.values)
        _state.load_model_state(self.model, state.model)
        if self._scaler.is_enabled() and "scaler" in state.values:
            self._scaler.load_state_dict(dict(state.values["scaler"]))
        self.discard()

    def _backward(self, batch: Batch, *, divisor: float, seed: int) -> None:
        torch.manual_seed(seed)
        with out_of_memory():
            with self._autocast():
                loss_sum, _ = self._loss(self._on_device(batch))
            self._scaler.scale(loss_sum / divisor).backward()
        self._loss_sum += loss_sum.detach()

    def _compiled(self, loss: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor]]:
        return torch.compile(loss) if self.resolution.compile else loss

    def _clip(self) -> Tensor:
        """Return the norm of all gradients, scaling them down to the largest one allowed."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # on a CPU the norm can be looked at for free, and most steps need no second pass
        if self._grad_clip and (self.device.type != "cpu" or not norm <= self._grad_clip):
            nn.utils.clip_grads_with_norm_(self._parameters, self._grad_clip, norm)
        return norm

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)

    def _on_device(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        pinned = self.device.type == "cuda"
        return {
            name: (tensor.pin_memory() if pinned else tensor).to(self.device, non_blocking=pinned)
            for name, tensor in batch.items()
        }


@contextlib.contextmanager
def out_of_memory() -> Iterator[None]:
    """Raise ``torch.OutOfMemoryError`` where a CPU's allocator raises a plain RuntimeError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error) or "can't allocate memory" in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


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
