"""What a ``backend`` component hands to the core: the engine that the step loop drives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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
    """Scalars of one optimizer step, still on the device: reading them synchronises."""

    loss_sum: Tensor
    grad_norm: Tensor
    learning_rate: float


@dataclass(frozen=True)
class EngineState:
    """Everything an engine needs to go on, by parameter name.

    Attributes:
        model: weights by name.
        optimizer: optimizer tensors as ``<parameter>/<key>``, for example ``wte/exp_avg``.
        values: JSON-serialisable rest (loss scaler).
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    values: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Owns model and optimizer on the devices it was prepared for.

    Attributes:
        model: the model, for evaluation and generation.
        device: where batches are computed.
        resolution: what ``auto`` became.
    """

    model: LanguageModel
    device: torch.device
    resolution: Resolution

    def accumulate(self, batch: Batch, *, targets: int, seed: int) -> None:
        """Add the gradients of one micro-batch.

        Args:
            batch: tensors in host memory.
            targets: scored targets of the whole global batch; the divisor of the loss.
            seed: what dropout and the like derive from, for this micro-batch.

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
        """Return summed loss and target count of a batch without gradients, on the device."""
        ...

    def finite(self) -> bool:
        """Return whether every loss and gradient norm so far was finite. Synchronises."""
        ...

    def state(self) -> EngineState:
        """Return live references to all state; the caller copies before the next step."""
        ...

    def load_state(self, state: EngineState) -> None:
        """Take over ``state``.

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
        """Build model and optimizer where they shall live and return the engine."""
        ...
