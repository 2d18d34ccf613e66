"""What a ``model`` component hands to the core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

IGNORE_INDEX = -100
"""Target value of positions that are not scored (the convention of PyTorch's cross-entropy)."""

Batch = Mapping[str, "Tensor"]
"""Tensors by name. Language modelling has ``inputs`` and ``targets``, int64 of shape
[sequences, length]; ``targets`` are the inputs shifted by one, ``IGNORE_INDEX`` where unscored.
``length`` is the context, or less where all sequences are shorter.

Sequences that several examples were packed into come with two more tensors of that shape. Only a
model whose component says ``supports = {"segments"}`` is given them. No position may see another
segment than its own:

* ``segments``, int64: the number of the example within its sequence: 0, 1 and so on, never falling.
  What is left at the end is padding, a segment with the next number, in which nothing is scored.
* ``positions``, int64: the position within the segment, from 0 on in each."""


class Cache(Protocol):
    """Keys and values of the positions a model has seen, for generating token by token.

    It may offer ``select(rows)``, which makes row ``i`` what row ``rows[i]`` was; ``rows`` is int64
    and may leave some out or repeat them. A prompt with several continuations is then read once,
    and finished continuations are dropped; without it every row is computed to the end.
    """

    def set_lengths(self, lengths: Tensor) -> None:
        """Say how many positions of each row count, int64 of shape [rows].

        Used after prompts of unequal length were fed padded on the right, and to take back tokens
        that were only proposed: what lies beyond a row's length is ignored and overwritten.
        """
        ...


class RowCache(Cache, Protocol):
    """A cache that rows join and leave between tokens, for continuous batching.

    A model offers it by returning one from ``new_cache``, also for no rows yet. Rows are numbered
    from 0 in the order they joined, but for those that took the place of one that left.
    """

    def new_row(self, length: int, *, source: Any = None, count: int = 0) -> Any:
        """Return a cache of one row for at most ``length`` positions, to be inserted later.

        It shares what this cache keeps of the model. With ``source``, another cache of one row,
        it holds a copy of that one's first ``count`` positions; else it is empty.
        """
        ...

    def insert(self, source: Any) -> None:
        """Add the only row of ``source`` as the last; ``source`` stays as it is."""
        ...

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        ...


class LanguageModel(Protocol):
    """A ``torch.nn.Module`` that can be trained and sampled.

    Attributes:
        context: the longest sequence it can attend over, in tokens.

    It may have an ``architecture``, a JSON-serialisable mapping of its sizes and variants, told
    to trackers when a run starts; without it they are given the options of ``[model.NAME]``. It may
    have a ``resolution``, a JSON-serialisable mapping that says where it came from, such as a
    commit; its component finds it in ``run.resolved["model"]`` at every later start, and with the
    ``architecture`` in it where a checkpoint is loaded.

    Parameters with ``requires_grad`` false are frozen: they are neither optimised nor saved, and
    must be the same whenever the model is built. A model that only wraps another library's, with
    the very same children, may offer that one as ``inner``.
    """

    context: int

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy in nats and the number of scored targets.

        Both are scalars on the model's device; the core divides, over micro-batches and ranks.
        """
        ...

    def __call__(self, inputs: Tensor, *, cache: Cache | None = None) -> Tensor:
        """Return logits of shape [rows, positions, vocabulary] for int64 ``inputs``.

        With a ``cache`` the inputs continue what it holds, and it is extended.
        """
        ...

    def new_cache(self, rows: int, length: int) -> Cache:
        """Return an empty cache for ``rows`` sequences of at most ``length`` positions.

        Only of models whose component says ``supports = {"kv_cache"}``; without it the whole
        window is computed again for each generated token.
        """
        ...

    def flops_per_token(self) -> float:
        """Return the floating-point operations of forward and backward for one token."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Return parameters by name, as ``torch.nn.Module`` does; shared ones once."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch between training and evaluation behaviour, as ``torch.nn.Module`` does."""
        ...

    def eval(self) -> Any:
        """Switch to evaluation behaviour."""
        ...


class KernelChoice(Protocol):
    """A model that can compute parts of itself in several ways, which it may offer.

    All give the same result up to rounding. Which is fastest differs by machine, so a run on a CPU
    measures them once and keeps to what it took.
    """

    def measure_kernels(
        self, *, rows: int, length: int, bf16: bool, seconds: float
    ) -> Mapping[str, Mapping[str, float]]:
        """Return the milliseconds that each way takes, by what is computed.

        The first way of each is taken unless another is clearly faster. What is too small to
        matter is left out.

        Args:
            rows: sequences computed at once.
            length: their tokens at most.
            bf16: whether matrix products are computed in bf16.
            seconds: how long it may take.
        """
        ...

    def use_kernels(self, chosen: Mapping[str, str]) -> None:
        """Compute these parts in these ways, the others as usual."""
        ...


class LabelPredictor(Protocol):
    """What a model of the form ``classify`` offers besides ``loss``."""

    def labels(self, batch: Batch) -> Tensor:
        """Return the likeliest label of each text of a batch on the model's device, [rows]."""
        ...


class SequenceScorer(Protocol):
    """What a model whose component ``supports`` ``sequence_log_probs`` offers besides ``loss``."""

    def sequence_log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each sequence's scored targets, and their number.

        Both are of shape [sequences], on the model's device: sums in nats, in fp32 whatever the
        precision of the products, with a gradient; and int64. The batch is one of language
        modelling, without ``segments``. Logits of all positions are never held at once.
        """
        ...


class SourceReader(Protocol):
    """What a model of the form ``seq2seq`` offers besides ``loss``, to write after a source.

    Attributes:
        start_id: the token it begins to write with.
    """

    start_id: int

    def read(self, inputs: Tensor, lengths: Tensor) -> Any:
        """Return a cache of sources, int64 [rows, positions] of which ``lengths`` [rows] count.

        It has the ``select`` of :class:`Cache`.
        """
        ...

    def __call__(self, inputs: Tensor, *, cache: Any) -> Tensor:
        """Return logits [rows, positions, vocabulary] after what was written so far, and extend it.

        ``inputs``, int64 [rows, positions], begin with ``start_id``.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """What a linear layer multiplies by and adds.

    Attributes:
        weight: [outputs, inputs].
        bias: [outputs], or None.
    """

    weight: Tensor
    bias: Tensor | None


class LinearLayers(Protocol):
    """What a model may offer besides ``loss``, so that its linear layers can be replaced."""

    def linear_layers(self) -> Mapping[str, LinearLayer]:
        """Return the layers by the names of their modules.

        A module of such a name is replaced by one that is called with the same tensors, [...,
        inputs] to [..., outputs], and whose ``weight`` is int8: the model must not compute with it.
        A name need not be there yet, as of an output layer that uses the embedding.
        A model that does not offer this has the layers of :func:`linear_layers`.
        """
        ...


def linear_layers(model: Module) -> dict[str, LinearLayer]:
    """Return all that is ``torch.nn.Linear`` in ``model``, by module name.

    Those that others compute with directly (of ``torch.nn.MultiheadAttention``) and those whose
    weights are not floating-point numbers are left out.
    """
    from torch.nn import Linear
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

    return {
        name: LinearLayer(weight=module.weight, bias=module.bias)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, Linear)
        and not isinstance(module, NonDynamicallyQuantizableLinear)
        and module.weight.is_floating_point()
    }


def model_blocks(model: Module) -> list[Module]:
    """Return the layers a model is a stack of: of its module lists, the one with most weights.

    They are what is sharded, compiled, recomputed and planned one by one. Lists within a layer do
    not count. A model without such a list has no blocks.
    """
    from torch.nn import ModuleList

    stacks: list[list[Module]] = []
    inside: set[Module] = set()
    for module in model.modules():
        if isinstance(module, ModuleList) and module not in inside:
            stacks.append(list(module))
            inside.update(part for layer in module for part in layer.modules())
    return max(stacks, key=_weights, default=[])


def weight_count(parameter: Any) -> int:
    """Return how many weights a parameter is.

    One that packs several into an element has their number as ``unpacked_numel``.
    """
    return int(getattr(parameter, "unpacked_numel", None) or parameter.numel())


def _weights(stack: list[Module]) -> int:
    return sum(weight_count(part) for layer in stack for part in layer.parameters())
