"""What a ``backend`` component hands to the core: the engine that the step loop drives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from llmforge.interfaces.model import Batch, LanguageModel


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What ``auto`` became, and why; recorded in the run and kept when it resumes.

    Attributes:
        device: ``cpu``, ``cuda:0``, ``mps`` …
        precision: ``fp32``, ``bf16`` or ``fp16``.
        compile: whether ``torch.compile`` is used.
        hardware: the device's name for people.
        reasons: one sentence per decision, for the log.
    """

    device: str
    precision: str
    compile: bool
    hardware: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepResult:
    """Scalars of one optimizer step, still on the device: reading them synchronises.

    Attributes:
        loss_sum: summed loss in nats of this rank's share of the global batch.
        grad_norm: norm of the gradient of the global batch, the same on every rank.
        learning_rate: the one applied.
    """

    loss_sum: Tensor
    grad_norm: Tensor
    learning_rate: float


@dataclass(frozen=True)
class Slice:
    """Which part of a whole tensor a 1-D tensor holds.

    It holds the elements ``begin`` to ``begin + numel`` of the whole, flattened row by row.

    Attributes:
        shape: of the whole tensor.
        begin: index of the first element held.
    """

    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True)
class EngineState:
    """Everything an engine needs to continue, by parameter name.

    Attributes:
        model: weights that train, by name, and persistent buffers; frozen weights are not part of
            the state.
        optimizer: optimizer tensors as ``<parameter>/<key>``, for example ``wte/exp_avg``.
        values: JSON-serialisable rest (loss scaler); the same on every rank.
        slices: for each tensor of ``model`` or ``optimizer`` that is only part of a whole, which
            part, under the same name. One without a slice is whole, and the same on every rank.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    values: Mapping[str, Any] = field(default_factory=dict)
    slices: Mapping[str, Slice] = field(default_factory=dict)


@runtime_checkable
class SlicedTensors(Protocol):
    """What a mapping of whole tensors offers besides when it can read a part of one alone."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the whole tensor ``name``, reading nothing."""
        ...

    def slice(self, name: str, begin: int, count: int) -> Tensor:
        """Return ``count`` elements from ``begin`` on of the tensor ``name``, flattened row by row.

        The rest of the tensor is not read.

        Raises:
            KeyError: there is no such tensor.
            CheckpointError: it cannot be read.
        """
        ...


def flat_part(tensors: Mapping[str, Tensor], name: str, *, begin: int, count: int) -> Tensor:
    """Return elements ``begin`` to ``begin + count`` of a whole tensor, flattened row by row.

    Only those are read where ``tensors`` is :class:`SlicedTensors`; of others the tensor is taken
    whole.
    """
    if isinstance(tensors, SlicedTensors):
        return tensors.slice(name, begin, count)
    return tensors[name].reshape(-1)[begin : begin + count]


def whole_shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Return the shape of a whole tensor, reading nothing where ``tensors`` knows it already."""
    if isinstance(tensors, SlicedTensors):
        return tensors.shape(name)
    return tuple(tensors[name].shape)


class Engine(Protocol):
    """Owns model and optimizer on the device of this process, its rank.

    On several ranks every method but :meth:`finite` and :meth:`gradients` is called by all of
    them, in the same order.

    Attributes:
        model: the model, in training mode; its weights may be parts of the whole ones.
        device: where batches are computed.
        resolution: what ``auto`` became.
    """

    model: LanguageModel
    device: torch.device
    resolution: Resolution

    def accumulate(self, batch: Batch, *, targets: int, seed: int, last: bool) -> None:
        """Add the gradients of one micro-batch of this rank.

        Args:
            batch: tensors in host memory.
            targets: scored targets of the global batch, over all micro-batches and ranks; the
                divisor of the loss. An engine whose gradients are averaged over ranks multiplies
                by their number.
            seed: what dropout and the like derive from, for this micro-batch.
            last: whether this is the last micro-batch before :meth:`step`, the only one after
                which gradients are exchanged between ranks.

        Raises:
            torch.OutOfMemoryError: it did not fit; call :meth:`discard` before anything else.
        """
        ...

    def discard(self) -> None:
        """Drop all gradients and sums accumulated since the last step."""
        ...

    def gradients(self) -> Mapping[str, Tensor]:
        """Return the gradients accumulated since the last step, by parameter name.

        As the optimizer will see them before clipping: without a loss scaler's factor. For
        looking at only; what cannot be had cheaply is left out.
        """
        ...

    def step(self, step: int) -> StepResult:
        """Clip, apply the optimizer at schedule position ``step`` (0-based), clear gradients."""
        ...

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return summed loss and target count of this rank's batch, on the device.

        No gradients are made. Every rank makes the same number of calls.
        """
        ...

    def finite(self) -> bool:
        """Return whether every loss of this rank and every gradient norm so far was finite.

        Synchronises with the device.
        """
        ...

    def gathered(self) -> AbstractContextManager[LanguageModel]:
        """Return a context in which the model's weights are whole on every rank.

        For generation, which all ranks run in lockstep; nothing is changed in it.
        """
        ...

    def state(self) -> EngineState:
        """Return live references to all state; the caller copies before the next step."""
        ...

    def load_state(self, state: EngineState) -> None:
        """Take over ``state``, whose tensors are whole whatever this engine holds of them.

        Its mappings may read from disk what is asked of them; :func:`flat_part` takes a part.

        Raises:
            CheckpointError: a name or shape does not fit this model or optimizer.
        """
        ...


class Backend(Protocol):
    """Decides device, precision and distribution, and prepares the engine."""

    def prepare(
        self,
        model_factory: Callable[[], LanguageModel],
        optimizer_factory: Callable[[list[tuple[str, Any]]], Any],
        schedule: Callable[[int], float],
    ) -> Engine:
        """Build model and optimizer where they shall live and return the engine.

        The optimizer is built over the parameters that require a gradient, and no others.
        """
        ...
