"""The engines of one rank under DeepSpeed: stage 0, and ZeRO stages 1 to 3."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from llmforge.errors import CheckpointError
from llmforge.interfaces import (
    Batch,
    EngineState,
    LanguageModel,
    Resolution,
    Slice,
    StepResult,
    flat_part,
    whole_shape,
)
from llmforge_plugins.backends import _state
from llmforge_plugins.backends._engine import SingleEngine, out_of_memory
from llmforge_plugins.backends._zero import Fragments, Part, Partitions


class PlainEngine(SingleEngine):
    """DeepSpeed's stage 0: every rank holds everything, gradients are averaged over ranks.

    Args:
        model: the model whose loss ``engine`` computes.
        optimizer: the inner optimizer.
        schedule: factor of the learning rate by step.
        resolution: what ``auto`` became.
        grad_clip: largest gradient norm; 0 for none.
        engine: what ``deepspeed.initialize`` returned.
        world_size: number of ranks.
    """

    def __init__(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        *,
        resolution: Resolution,
        grad_clip: float,
        engine: Any,
        world_size: int,
    ) -> None:
        super().__init__(model, optimizer, schedule, resolution=resolution, grad_clip=grad_clip)
        self._engine = engine
        self._world_size = world_size

    def accumulate(self, batch: Batch, *, targets: int, seed: int, last: bool) -> None:
        """Add the gradients of one micro-batch of this rank; the last one exchanges them."""
        torch.manual_seed(seed)
        self._engine.set_gradient_accumulation_boundary(last)
        with out_of_memory():
            loss_sum, _ = self._engine(self._on_device(batch))
            # gradients are averaged over ranks, and shall be summed
            self._engine.backward(loss_sum * (self._world_size / targets))
        self._loss_sum += loss_sum.detach()

    def step(self, step: int) -> StepResult:
        """Clip, let DeepSpeed apply the optimizer at schedule position ``step``."""
        factor = self._schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        grad_norm = self._stepped()
        rate = float(self.optimizer.param_groups[0]["lr"])
        result = StepResult(self._loss_sum, grad_norm, rate)
        self._finite = self._finite & self._loss_sum.isfinite() & grad_norm.isfinite()
        self._loss_sum = torch.zeros_like(self._loss_sum)
        return result

    def _stepped(self) -> Tensor:
        """Let DeepSpeed step and return the norm of the gradients before clipping."""
        norm = self._clip()
        self._engine.step()
        return norm


class ZeroEngine(PlainEngine):
    """ZeRO stages 1 to 3: fp32 weights and optimizer state in parts, read and written in place.

    In bf16 DeepSpeed computes with bf16 weights and keeps fp32 ones for the optimizer; state is
    the fp32 ones.

    Args:
        stage: 1, 2 or 3.
        rank: of this process.
        model_factory: builds the model again, for whole weights under stage 3.
    """

    def __init__(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        *,
        stage: int,
        rank: int,
        model_factory: Callable[[], LanguageModel],
        **common: Any,
    ) -> None:
        super().__init__(model, optimizer, schedule, **common)
        self._model_factory = model_factory
        self._sharded_weights = stage == 3
        parameters = dict(_state.trainable(model))
        wrapper = self._engine.optimizer
        self._zero: Fragments | Partitions = (
            Partitions(wrapper, parameters, rank=rank)
            if self._sharded_weights
            else Fragments(wrapper, parameters)
        )
        self._groups: dict[int, list[Part]] = {}
        for part in self._zero.parts:
            self._groups.setdefault(part.group, []).append(part)

    def discard(self) -> None:
        """Drop all gradients and sums accumulated since the last step."""
        self._zero.discard()
        self._loss_sum = torch.zeros_like(self._loss_sum)

    def gradients(self) -> dict[str, Tensor]:
        """Return nothing: no rank holds a whole gradient."""
        return {}

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return summed loss and target count of this rank's batch, on the device."""
        self.model.eval()
        try:
            with out_of_memory(), torch.no_grad():
                found: tuple[Tensor, Tensor] = self._engine(self._on_device(batch))
                return found
        finally:
            self.model.train()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[LanguageModel]:
        """Give the model with whole weights; under stage 3 a copy of it, for the block."""
        if not self._sharded_weights:
            yield self.model
            return
        import deepspeed

        copy = self._model_factory()
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in copy.named_parameters():
                with deepspeed.zero.GatheredParameters([own[name]]):
                    parameter.data = own[name].detach().to(self.device, copy=True)
        cast("nn.Module", copy).to(self.device)
        yield copy

    def state(self) -> EngineState:
        """Return this rank's parts of the fp32 weights and the optimizer's state, not gathered."""
        weights = self._whole()
        optimizer: dict[str, Tensor] = {}
        slices: dict[str, Slice] = {}
        for group, parts in self._groups.items():
            with self._zero.flat(group, write=False) as flat:
                held = self.optimizer.state.get(flat, {})
                for part in parts:
                    self._put(weights, slices, part.name, part, flat)
                    for key, value in held.items():
                        name = f"{part.name}/{key}"
                        if value.shape == flat.shape:
                            self._put(optimizer, slices, name, part, value)
                        else:
                            optimizer[name] = value
        return EngineState(weights, optimizer, {}, slices)

    def load_state(self, state: EngineState) -> None:
        """Take over this rank's parts of ``state``, reading no others.

        Raises:
            CheckpointError: a name or shape does not fit this model or optimizer.
        """
        whole = self._whole()
        shapes = {name: tuple(tensor.shape) for name, tensor in whole.items()}
        shapes |= {part.name: part.shape for part in self._zero.parts}
        _state.check_shapes(shapes, state.model)
        keys = self._keys(state)
        with torch.no_grad():
            for name, tensor in whole.items():
                tensor.copy_(state.model[name])
            for group, parts in self._groups.items():
                with self._zero.flat(group, write=True) as flat:
                    self._load_group(flat, parts, keys, state.optimizer)
        self.set_weights(state.model)
        self.discard()

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Make the fp32 weights, and those computed with, those of the whole ``weights``."""
        with torch.no_grad():
            for group, parts in self._groups.items():
                with self._zero.flat(group, write=True) as flat:
                    for part in parts:
                        _fill(part, flat, weights, part.name)
            self._zero.refresh()

    def _stepped(self) -> Tensor:
        self._engine.step()
        norm = torch.as_tensor(self._engine.get_global_grad_norm(), device=self.device)
        # DeepSpeed says -1 when it is not finite
        return norm.float().where(norm >= 0, torch.nan)

    def _whole(self) -> dict[str, Tensor]:
        """Return what no optimizer steps and every rank holds: persistent buffers."""
        weights = {name for name, _ in self.model.named_parameters()}
        held = _state.model_state(self.model)
        return {name: held[name] for name in held.keys() - weights}

    def _put(
        self,
        tensors: dict[str, Tensor],
        slices: dict[str, Slice],
        name: str,
        part: Part,
        flat: Tensor,
    ) -> None:
        if self._world_size == 1:
            tensors[name] = part.of(flat).detach().view(part.shape)
        elif part.count:
            tensors[name] = part.of(flat).detach()
            slices[name] = Slice(part.shape, part.begin)

    def _keys(self, state: EngineState) -> dict[str, dict[str, bool]]:
        """Return by parameter which keys of optimizer state there are and which are shaped like it.

        Raises:
            CheckpointError: they do not fit.
        """
        shapes = {part.name: part.shape for part in self._zero.parts}
        found: dict[str, dict[str, bool]] = {}
        for full in state.optimizer:
            name, _, key = full.rpartition("/")
            if name not in shapes:
                raise CheckpointError(f"optimizer tensor '{full}' belongs to no parameter")
            found.setdefault(name, {})[key] = whole_shape(state.optimizer, full) == shapes[name]
        expected = {key for keys in found.values() for key in keys}
        stateless = set(state.values.get(_state.STATELESS, ()))
        for name in shapes.keys() - stateless:
            if missing := sorted(expected - found.get(name, {}).keys()):
                raise CheckpointError(f"optimizer tensor '{name}/{missing[0]}' is missing")
        return found

    def _load_group(
        self,
        flat: Tensor,
        parts: list[Part],
        keys: Mapping[str, Mapping[str, bool]],
        saved: Mapping[str, Tensor],
    ) -> None:
        """Make the inner optimizer's state of one flat tensor that of its parameters' ``saved``."""
        held = self.optimizer.state.get(flat, {})
        fresh: dict[str, Tensor] = {}
        for part in parts:
            for key, shaped_alike in keys.get(part.name, {}).items():
                name = f"{part.name}/{key}"
                if not shaped_alike:  # a count of steps, the same for all
                    fresh[key] = saved[name].clone().to(flat.device)
                    continue
                if key not in fresh:
                    known = held.get(key)
                    # in place where DeepSpeed has views of it
                    fresh[key] = torch.zeros_like(flat) if known is None else known.zero_()
                _fill(part, fresh[key], saved, name)
        if fresh:
            self.optimizer.state[flat] = fresh
        else:
            self.optimizer.state.pop(flat, None)


def _fill(part: Part, flat: Tensor, saved: Mapping[str, Tensor], name: str) -> None:
    """Copy this rank's part of the whole tensor ``name`` into its place in ``flat``."""
    if part.count:
        part.of(flat).copy_(flat_part(saved, name, begin=part.begin, count=part.count))
