"""How far the weights of one checkpoint are from those of another, by tensor and by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from llmforge.checkpoint.lazy_tensors import StoredTensors
from llmforge.insight.layers import layer_of, natural_order
from llmforge.insight.tensor_statistics import blocks
from llmforge.progress import track


@dataclass(frozen=True)
class Sums:
    """Sums of squares and products of two groups of weights ``a`` and ``b``; they add up."""

    count: int = 0
    difference: float = 0.0
    first: float = 0.0
    second: float = 0.0
    product: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.count + other.count,
            self.difference + other.difference,
            self.first + other.first,
            self.second + other.second,
            self.product + other.product,
        )


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far ``name``, a tensor or a layer, is from where it was.

    Attributes:
        name: the tensor or layer.
        tensors: how many tensors it has.
        parameters: how many numbers.
        relative: ‖a - b‖ / ‖a‖ (L2); None where all of a is zero and b is not, NaN where a value
            is not finite.
        cosine: of the angle between a and b; None where one of them is zero.
    """

    name: str
    tensors: int
    parameters: int
    relative: float | None
    cosine: float | None


@dataclass(frozen=True, kw_only=True)
class WeightDistances:
    """The weights of two checkpoints against each other.

    Attributes:
        total: all tensors that both have.
        layers: by layer, the one that moved most first.
        tensors: by tensor, the one that moved most first.
        only_first: tensors that the other one does not have.
        only_second: tensors that only the other one has.
        reshaped: tensors that both have in different shapes.
    """

    total: Distance
    layers: tuple[Distance, ...]
    tensors: tuple[Distance, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    reshaped: tuple[str, ...]


def weight_distances(first: StoredTensors, second: StoredTensors) -> WeightDistances:
    """Return how far ``second`` is from ``first`` in the tensors that both have.

    A block of each is in memory at a time.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    common = [name for name in first if name in second]
    same = [name for name in common if first.shape(name) == second.shape(name)]
    sums = {}
    total = sum(math.prod(first.shape(name)) for name in same)
    with track("comparing weights", total=total, unit="weights") as task:
        for name in sorted(same, key=natural_order):
            sums[name] = _sums(first, second, name)
            task.advance(sums[name].count)
    layers: dict[str, list[str]] = {}
    for name in sums:
        layers.setdefault(layer_of(name), []).append(name)
    return WeightDistances(
        total=_distance("all", sums.values()),
        layers=_by_distance(
            _distance(layer, [sums[name] for name in names]) for layer, names in layers.items()
        ),
        tensors=_by_distance(_distance(name, [item]) for name, item in sums.items()),
        only_first=_ordered(set(first) - set(second)),
        only_second=_ordered(set(second) - set(first)),
        reshaped=_ordered(set(common) - set(same)),
    )


def _sums(first: StoredTensors, second: StoredTensors, name: str) -> Sums:
    found = Sums()
    for a, b in zip(blocks(first, name), blocks(second, name), strict=True):
        found += Sums(
            a.numel(),
            float((a - b).square().sum()),
            float(a.square().sum()),
            float(b.square().sum()),
            float((a * b).sum()),
        )
    return found


def _distance(name: str, parts: Iterable[Sums]) -> Distance:
    parts = list(parts)
    whole = sum(parts, Sums())
    norms = math.sqrt(whole.first) * math.sqrt(whole.second)
    relative: float | None = 0.0
    if whole.difference:  # true of NaN, too
        relative = math.sqrt(whole.difference / whole.first) if whole.first else None
    return Distance(
        name=name,
        tensors=len(parts),
        parameters=whole.count,
        relative=relative,
        cosine=_within_one(whole.product / norms) if norms else None,
    )


def _within_one(cosine: float) -> float:
    """Return ``cosine`` without what rounding took it beyond 1; NaN stays."""
    return cosine if math.isnan(cosine) else max(-1.0, min(1.0, cosine))


def _by_distance(distances: Iterable[Distance]) -> tuple[Distance, ...]:
    """Return the farthest first: values that are not finite, then what was zero, then the rest."""

    def key(item: Distance) -> tuple[float, tuple[tuple[int, str], ...]]:
        known = item.relative is not None and math.isfinite(item.relative)
        return (-(item.relative or 0.0) if known else -math.inf, natural_order(item.name))

    return tuple(sorted(distances, key=key))


def _ordered(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=natural_order))
