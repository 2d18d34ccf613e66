"""What each way of spreading a step over devices leaves on one of them.

The parts of an unsharded step are divided as the methods say: data parallelism replicates all;
ZeRO (Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
2020) divides the optimizer's state (stage 1), the gradients too (2) and the weights too (3); FSDP
(Zhao et al., "PyTorch FSDP", 2023) is stage 3 with the weights of one layer gathered while it is
computed and those of the next on their way. Weights, gradients and moments are fp32 and products in
the smaller precision, except with ZeRO: there weights are in the smaller precision too, and fp32
ones are beside the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import MappingProxyType

from llmforge.planning.trace import ModelSizes, StepMemory

_FP32 = 4
_REDUCED_AT_ONCE = 500_000_000
"""Gradients that DeepSpeed collects before it exchanges them (``reduce_bucket_size``)."""
_WHOLE_AT_ONCE = 1_000_000_000
"""Weights that DeepSpeed lets be whole before it frees some (``stage3_max_live_parameters``)."""


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Bytes on one device at the fullest moment of a step, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class Case:
    """One step to be spread.

    Attributes:
        step: it on one device.
        sizes: of the model.
        ranks: devices.
        width: bytes of a number in the products: 4, or 2 in bf16 and fp16.
        accumulates: whether a step has several micro-batches.
    """

    step: StepMemory
    sizes: ModelSizes
    ranks: int
    width: int
    accumulates: bool

    def share(self, amount: float) -> int:
        """Return one rank's part of ``amount``, rounded up."""
        return -int(-amount // self.ranks)

    @property
    def narrow(self) -> int:
        """Bytes of all weights in the precision of the products."""
        return self.sizes.parameters * self.width

    @property
    def gathered(self) -> int:
        """Bytes of the weights that are whole while a layer of a sharded model is computed."""
        if self.ranks == 1:
            return 0
        whole = self.sizes.outside_blocks + 2 * self.sizes.largest_block
        return min(whole, self.sizes.parameters) * self.width


def alone(case: Case) -> DeviceMemory:
    """Everything on one device."""
    step = case.step
    return DeviceMemory(
        weights=step.weights + step.copies,
        gradients=step.gradients,
        optimizer=step.optimizer,
        activations=step.activations,
        logits=step.logits,
    )


def replicated(case: Case) -> DeviceMemory:
    """Everything on every device, and the buckets in which DDP exchanges the gradients.

    The buckets are there all the time; gradients of micro-batches before the last are beside them.
    """
    buckets = case.sizes.parameters * _FP32
    one = alone(case)
    return replace(one, gradients=one.gradients + buckets)


def fully_sharded(case: Case, *, each: bool) -> DeviceMemory:
    """Shards of everything, and whole gradients until the exchange.

    That is after ``each`` micro-batch or after the last one, layer by layer, so that whole ones
    make room for shards.
    """
    step, sizes = case.step, case.sizes
    if case.ranks == 1:
        return alone(case)
    whole = sizes.parameters * _FP32
    exchanged = each or not case.accumulates
    return DeviceMemory(
        weights=case.share(step.weights) + case.gathered,
        gradients=case.share(whole) + case.gathered if exchanged else whole,
        optimizer=case.share(step.optimizer),
        activations=step.activations,
        logits=step.logits,
    )


def zero(case: Case, *, stage: int) -> DeviceMemory:
    """DeepSpeed's ZeRO at ``stage`` 1, 2 or 3; stage 0 keeps all, without buckets."""
    step, count = case.step, case.sizes.parameters
    # stage 3 collects them in the precision of the exchange, which is fp32
    bucket = min(_REDUCED_AT_ONCE, count) * (_FP32 if stage == 3 else case.width)
    gathered = min(_WHOLE_AT_ONCE, count) * case.width if case.ranks > 1 else 0
    accumulated = count * _FP32
    return DeviceMemory(
        weights=case.share(case.narrow) + gathered if stage == 3 else case.narrow,
        gradients=bucket + (accumulated if stage == 1 else case.share(accumulated)),
        optimizer=case.share(step.optimizer + count * _FP32),
        activations=step.activations,
        logits=step.logits,
    )


STRATEGIES: Mapping[str, Callable[[Case], DeviceMemory]] = MappingProxyType(
    {
        "single": alone,
        "ddp": replicated,
        "fsdp": partial(fully_sharded, each=False),
        "fsdp, reduce each": partial(fully_sharded, each=True),
        "deepspeed 0": alone,
        **{f"deepspeed {stage}": partial(zero, stage=stage) for stage in (1, 2, 3)},
    }
)
"""By backend and stage; ``single`` is one device whatever the number of ranks."""
