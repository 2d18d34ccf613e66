"""The plan of a recipe's memory and arithmetic: every way to spread it, and what fits."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from llmforge.errors import UsageError
from llmforge.planning.model_and_optimizer import vocabulary_size
from llmforge.planning.strategies import STRATEGIES, Case, DeviceMemory
from llmforge.planning.trace import FakeTraining, ModelSizes, StepMemory
from llmforge.recipe import Recipe
from llmforge.recipe.schema import TrainTable

HEADROOM = 0.1
"""Share of a device's memory left for what no tensor tells of: the context of CUDA, buffers of
communication, and gaps between blocks."""

_ALONE = "single"
_WIDTHS = {"fp32": 4}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to spread a step.

    Attributes:
        strategy: backend, with its stage.
        ranks: devices.
        micro_batch: sequences at once that ``memory`` is for.
        memory: bytes on one device.
        largest: most sequences at once that fit, or None when not even one does.
        accumulated: micro-batches per step and device with ``largest``.
    """

    strategy: str
    ranks: int
    micro_batch: int
    memory: DeviceMemory
    largest: int | None
    accumulated: int | None


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a recipe needs.

    Attributes:
        source: the recipe.
        model: the model's name.
        vocabulary: tokens.
        sizes: of the model.
        batch_size: sequences per step over all devices.
        context: tokens of a sequence.
        sequences: that an example of the batch is made of.
        steps: of the run, None while only the data could tell.
        precision: of the products.
        device: whose kernels were traced.
        memory_limit: bytes of one device.
        checkpoint_bytes: weights and optimizer state on the disk.
        rows: the strategies.
    """

    source: str
    model: str
    vocabulary: int
    sizes: ModelSizes
    batch_size: int
    context: int
    steps: int | None
    precision: str
    device: str
    memory_limit: int
    checkpoint_bytes: int
    rows: tuple[Row, ...]
    sequences: int = 1

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the global batch."""
        return self.batch_size * self.sequences * self.context

    @property
    def flops_per_step(self) -> float:
        """Operations of forward and backward over the global batch."""
        return self.sizes.flops_per_token * self.tokens_per_step

    @property
    def usable(self) -> int:
        """Bytes that may be planned with."""
        return int(self.memory_limit * (1 - HEADROOM))


def plan_memory(
    recipe: Recipe,
    *,
    ranks: int = 1,
    memory_limit: int,
    vocabulary: int | None = None,
    device: str = "cpu",
) -> MemoryPlan:
    """Trace steps of ``recipe`` and return what they need, spread in every way.

    Args:
        recipe: to train; ``precision = "auto"`` counts as bf16, what GPUs of today resolve it to.
        ranks: devices to spread it over.
        memory_limit: bytes of one device.
        vocabulary: tokens, when neither data nor tokenizer can tell without reading text.
        device: whose kernels are traced, ``cpu`` or ``cuda``.

    Raises:
        UsageError: the batch cannot be shared among ``ranks``, or the vocabulary is not known.
        RunError: model or optimizer look at values, and there are none.
    """
    batch = recipe.train.batch_size
    if batch % ranks:
        raise UsageError(
            f"a batch of {batch} sequences cannot be divided among {ranks} ranks",
            remedy=f"set train.batch_size to a multiple of {ranks}",
        )
    precision = "bf16" if recipe.train.precision == "auto" else recipe.train.precision
    tokens = vocabulary or vocabulary_size(recipe)
    training = FakeTraining(recipe, vocabulary=tokens, precision=precision, device=device)
    sizes = training.sizes()
    spread = _Spread(training, batch=batch, width=_WIDTHS.get(precision, 2))
    usable = int(memory_limit * (1 - HEADROOM))
    rows = tuple(
        spread.row(
            name,
            ranks=1 if name == _ALONE else ranks,
            train=recipe.train,
            usable=usable,
        )
        for name in STRATEGIES
    )
    return MemoryPlan(
        source=str(recipe.source),
        model=recipe.selected("model").name,
        vocabulary=tokens,
        sizes=sizes,
        batch_size=batch,
        context=recipe.context,
        steps=recipe.train.max_steps,
        precision=precision,
        device=device,
        memory_limit=memory_limit,
        checkpoint_bytes=sizes.weight_bytes - sizes.frozen_bytes + sizes.optimizer_bytes,
        rows=rows,
        sequences=training.sequences,
    )


class _Spread:
    """Spreads the steps of one training, each micro-batch traced once."""

    def __init__(self, training: FakeTraining, *, batch: int, width: int) -> None:
        self._training, self._batch, self._width = training, batch, width
        self._sizes = training.sizes()
        self._traced: dict[tuple[int, bool], StepMemory] = {}

    def row(self, name: str, *, ranks: int, train: TrainTable, usable: int) -> Row:
        """Return what ``name`` needs with about the micro-batch of ``train``, and what fits."""
        share = self._batch // ranks
        wanted = train.micro_batch_size or share // (train.accumulation or share) or 1
        sizes = [size for size in range(1, share + 1) if share % size == 0]
        shown = max(size for size in sizes if size <= wanted)
        too_much = bisect_right(
            sizes, usable, key=lambda size: self._memory(name, ranks, size).total
        )
        largest = sizes[too_much - 1] if too_much else None
        return Row(
            strategy=name,
            ranks=ranks,
            micro_batch=shown,
            memory=self._memory(name, ranks, shown),
            largest=largest,
            accumulated=None if largest is None else share // largest,
        )

    def _memory(self, name: str, ranks: int, micro_batch: int) -> DeviceMemory:
        accumulates = micro_batch * ranks < self._batch
        key = micro_batch, accumulates
        step = self._traced.get(key)
        if step is None:
            step = self._traced[key] = self._training.step(micro_batch, accumulates=accumulates)
        return STRATEGIES[name](
            Case(
                step=step,
                sizes=self._sizes,
                ranks=ranks,
                width=self._width,
                accumulates=accumulates,
            )
        )
