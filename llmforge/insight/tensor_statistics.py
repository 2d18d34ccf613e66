"""What is in the tensors of a checkpoint: norms, means, values that are not finite.

Tensors are read a block at a time, so that the memory does not grow with the model. Torch is
imported when the first block is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.checkpoint.format import index_file, tensor_file, tensor_files
from llmforge.checkpoint.lazy_tensors import StoredTensors
from llmforge.checkpoint.manifest import read_manifest
from llmforge.errors import CheckpointError
from llmforge.insight.layers import natural_order
from llmforge.progress import track

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 20
"""Elements read at once."""


@dataclass(frozen=True, kw_only=True)
class TensorStatistics:
    """One tensor. Norm, mean and standard deviation are of its finite values.

    Attributes:
        name: in the checkpoint.
        shape: of the whole, however many ranks wrote it.
        dtype: as safetensors names it.
        norm: the square root of the sum of squares (L2).
        mean: None of a tensor without finite values.
        std: of all values, not of a sample; None of a tensor without finite values.
        nonfinite: how many values are NaN or infinite.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    norm: float
    mean: float | None
    std: float | None
    nonfinite: int


@dataclass(frozen=True, kw_only=True)
class WeightSummary:
    """The weights of a checkpoint, by the headers of their files.

    Attributes:
        tensors: how many.
        parameters: numbers in all of them.
        dtypes: parameters by type, as safetensors names it.
        files: how many files they are in.
    """

    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    files: int


def stored_weights(path: Path) -> StoredTensors:
    """Return the weights of the checkpoint ``path``, none of them read.

    Raises:
        CheckpointError: it has none, or a file is missing or damaged.
    """
    names = tensor_files(read_manifest(path).files, "model")
    if not names:
        raise CheckpointError(f"{path} holds no {tensor_file('model')}")
    if names[0] == index_file("model"):
        return StoredTensors.of_index(path / names[0])
    return StoredTensors.of_file(path / names[0])


def summarize_weights(path: Path) -> WeightSummary:
    """Return what the headers of the weights of the checkpoint ``path`` say; imports no torch.

    Raises:
        CheckpointError: it has none, or a file is missing or damaged.
    """
    weights = stored_weights(path)
    dtypes: dict[str, int] = {}
    for name in weights:
        dtype = weights.dtype(name)
        dtypes[dtype] = dtypes.get(dtype, 0) + math.prod(weights.shape(name))
    files = tensor_files(read_manifest(path).files, "model")
    return WeightSummary(
        tensors=len(weights),
        parameters=sum(dtypes.values()),
        dtypes=dtypes,
        files=sum(name != index_file("model") for name in files),
    )


def tensor_statistics(weights: StoredTensors) -> Iterator[TensorStatistics]:
    """Yield the statistics of each tensor, in order of names with numbers as people count.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    total = sum(math.prod(weights.shape(name)) for name in weights)
    with track("reading weights", total=total, unit="weights") as task:
        for name in sorted(weights, key=natural_order):
            yield _statistics(weights, name)
            task.advance(math.prod(weights.shape(name)))


def blocks(weights: StoredTensors, name: str) -> Iterator[Tensor]:
    """Yield the values of a tensor as float64, :data:`BLOCK` at a time."""
    count = math.prod(weights.shape(name))
    for begin in range(0, count, BLOCK):
        yield weights.slice(name, begin, min(BLOCK, count - begin)).double()


def _statistics(weights: StoredTensors, name: str) -> TensorStatistics:
    count, total, squares, nonfinite = 0, 0.0, 0.0, 0
    for block in blocks(weights, name):
        finite = block.isfinite()
        if not finite.all():
            nonfinite += int((~finite).sum())
            block = block[finite]
        count += block.numel()
        total += float(block.sum())
        squares += float(block.square().sum())
    mean = total / count if count else None
    return TensorStatistics(
        name=name,
        shape=weights.shape(name),
        dtype=weights.dtype(name),
        norm=math.sqrt(squares),
        mean=mean,
        std=None if mean is None else math.sqrt(max(0.0, squares / count - mean * mean)),
        nonfinite=nonfinite,
    )
