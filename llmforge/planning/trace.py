"""A training step without memory or arithmetic, to see what it would need.

Model and optimizer are the recipe's own, built by their hooks, but of PyTorch's fake tensors, which
have shape, type and device and no content (meta tensors that say where they would lie). A step on
them takes the operations, and so the allocations, that a real one takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.utils.checkpoint import checkpoint

from llmforge.errors import RunError
from llmforge.interfaces import LanguageModel, model_blocks
from llmforge.planning import tensor_memory as ledger
from llmforge.planning.model_and_optimizer import (
    build_model,
    build_optimizer,
    sequences_of_a_row,
)
from llmforge.planning.tensor_memory import MemoryLedger
from llmforge.recipe import Recipe

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes that a step of one device needs when nothing is sharded, at its fullest moment.

    Attributes:
        micro_batch: sequences computed at once.
        weights: parameters and buffers.
        copies: weights in the precision of the products, as long as autograd keeps them.
        gradients: those there are at the fullest moment: all, when micro-batches are accumulated.
        optimizer: its state, and at the fullest moment of its own step also what it works with.
        activations: what the forward pass keeps for the backward pass, and what both work with.
        logits: all that is as wide as the vocabulary.
    """

    micro_batch: int
    weights: int
    copies: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All parts together."""
        return (
            self.weights
            + self.copies
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
        )


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """What of a model does not depend on the batch.

    Attributes:
        parameters: weights, frozen ones too, shared ones once.
        largest_block: those of its largest repeated layer, 0 without one.
        outside_blocks: those in no repeated layer: embeddings, output, last normalisation.
        weight_bytes: of parameters and buffers.
        frozen_bytes: of parameters that do not train, which no checkpoint has.
        optimizer_bytes: of the optimizer's state.
        flops_per_token: forward and backward.
    """

    parameters: int
    largest_block: int
    outside_blocks: int
    weight_bytes: int
    optimizer_bytes: int
    flops_per_token: float
    frozen_bytes: int = 0


class FakeTraining:
    """Model and optimizer of a recipe as fake tensors.

    Args:
        recipe: names them and gives the context.
        vocabulary: tokens.
        precision: ``fp32``, ``bf16`` or ``fp16``, of the products.
        device: ``cpu`` or ``cuda``; the kernels of CUDA are known only where a GPU is.

    Attributes:
        sequences: that a row of a batch is made of.

    Raises:
        RunError: the model or optimizer looks at values, and there are none.
    """

    def __init__(self, recipe: Recipe, *, vocabulary: int, precision: str, device: str) -> None:
        self._recipe, self._vocabulary = recipe, vocabulary
        self._dtype, self._device = DTYPES.get(precision), device
        self.sequences = sequences_of_a_row(recipe)
        self._mode = FakeTensorMode()
        self.model = self._built()
        with self._fake():
            _recompute(self.module, recipe.train.activation_checkpointing)
            self.module.train()
            trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            self.optimizer = build_optimizer(recipe, trained)
        self._ledger = MemoryLedger(vocabulary=vocabulary)
        self._ledger.assign(self.module.parameters(), ledger.WEIGHTS)
        self._ledger.assign(self.module.buffers(), ledger.WEIGHTS)
        for _, parameter in trained:
            parameter.register_post_accumulate_grad_hook(self._put_down_gradient)
        with self._fake():
            self._of_optimizer = self._first_steps()

    def _built(self) -> LanguageModel:
        """Return the model, of fake tensors."""
        if not self._recipe.selections.get("adapter"):
            with self._fake(), torch.device(self._device):
                return build_model(self._recipe, self._vocabulary)
        # an adapter promises to take a model in outline, but may not know fake tensors
        with torch.device("meta"):
            model = build_model(self._recipe, self._vocabulary)
        with self._fake():
            _out_of_outline(cast("nn.Module", model), device=self._device)
        return model

    @property
    def module(self) -> nn.Module:
        """The model as the module it is."""
        assert isinstance(self.model, nn.Module)
        return self.model

    def sizes(self) -> ModelSizes:
        """Return what does not depend on the batch."""
        parameters = sum(parameter.numel() for _, parameter in self.model.named_parameters())
        blocks = [sum(p.numel() for p in block.parameters()) for block in model_blocks(self.module)]
        return ModelSizes(
            parameters=parameters,
            largest_block=max(blocks, default=0),
            outside_blocks=parameters - sum(blocks),
            weight_bytes=self._ledger.live[ledger.WEIGHTS],
            optimizer_bytes=self._ledger.live[ledger.OPTIMIZER],
            flops_per_token=self.model.flops_per_token(),
            frozen_bytes=sum(p.nbytes for p in self.module.parameters() if not p.requires_grad),
        )

    def step(self, micro_batch: int, *, accumulates: bool) -> StepMemory:
        """Return what a step needs whose micro-batches have ``micro_batch`` sequences.

        Args:
            micro_batch: sequences at once.
            accumulates: whether gradients of an earlier micro-batch are there already.
        """
        with self._fake():
            self._set_gradients(present=accumulates)
            of_pass = self._ledger.peak_of(lambda: self._forward_and_backward(micro_batch))
            self._set_gradients(present=False)
        fullest = max(of_pass, self._of_optimizer, key=lambda parts: sum(parts.values()))
        return StepMemory(micro_batch=micro_batch, **fullest)

    def _forward_and_backward(self, micro_batch: int) -> None:
        shape = (micro_batch * self.sequences, self._recipe.context)
        ids = torch.zeros(shape, dtype=torch.int64, device=self._device)
        cast = nullcontext() if self._dtype is None else torch.autocast(self._device, self._dtype)
        with cast:
            loss, count = self.model.loss({"inputs": ids, "targets": ids})
        del count
        (loss / ids.numel()).backward()

    def _first_steps(self) -> dict[str, int]:
        """Let the optimizer make its state; return the fullest moment of its step after that."""
        self._set_gradients(present=True)
        self.optimizer.step()
        self._ledger.assign(_tensors(self.optimizer.state), ledger.OPTIMIZER)
        standing = sum(self._ledger.live.values())
        peak = dict(self._ledger.peak_of(lambda: self.optimizer.step()))
        working = sum(peak.values()) - standing
        self._set_gradients(present=False)
        of_step = dict.fromkeys(ledger.PARTS, 0)
        for part in (ledger.WEIGHTS, ledger.GRADIENTS):
            of_step[part] = peak[part]
        of_step[ledger.OPTIMIZER] = peak[ledger.OPTIMIZER] + working
        return of_step

    def _set_gradients(self, *, present: bool) -> None:
        for parameter in self.module.parameters():
            wanted = present and parameter.requires_grad
            parameter.grad = torch.zeros_like(parameter) if wanted else None
            if parameter.grad is not None:
                self._ledger.assign([parameter.grad], ledger.GRADIENTS)

    def _put_down_gradient(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            self._ledger.assign([parameter.grad], ledger.GRADIENTS)

    @contextmanager
    def _fake(self) -> Iterator[None]:
        try:
            with self._mode:
                yield
        except (
            DataDependentOutputException,
            DynamicOutputShapeException,
            UnsupportedFakeTensorException,
            UnsupportedOperatorException,
        ) as error:
            raise RunError(
                f"a step of this recipe cannot be planned, because it looks at values: {error}",
                remedy="measure it: forge train with train.max_steps = 2",
            ) from error


def _out_of_outline(model: nn.Module, *, device: str) -> None:
    """Replace all tensors by ones without content on ``device``, shared ones by shared ones."""
    made: dict[int, torch.Tensor] = {}
    for part in model.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if id(parameter) not in made:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            part._parameters[name] = cast("nn.Parameter", made[id(parameter)])
        for name, buffer in list(part.named_buffers(recurse=False)):
            part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)


def _recompute(model: nn.Module, asked: Literal["none", "full"] | int) -> None:
    """Let blocks keep their inputs only, as ``train.activation_checkpointing`` asks."""
    chosen = [] if asked == "none" else model_blocks(model)[:: 1 if asked == "full" else asked]
    for block in chosen:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )


def _tensors(state: Any) -> list[torch.Tensor]:
    return [
        value
        for entries in state.values()
        for value in entries.values()
        if isinstance(value, torch.Tensor)
    ]
