"""Rows of examples as tensors: shuffled for training, sorted by length for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmforge.data.example_rows import ExampleSplit
from llmforge.data.order import Epochs, SampleOrder
from llmforge.interfaces import IGNORE_INDEX, Batch

_MULTIPLE = 16
"""Batches are as long as their longest row, rounded up to this: few shapes, little padding."""


class ExampleBatches:
    """Training batches of examples by global position, as :class:`TrainBatches` are of text.

    Args:
        split: the rows.
        context: inputs of a row at most.
        batch_size: rows per optimizer step, over all ranks.
        seed: of the order.
        pin_memory: return page-locked tensors.
    """

    def __init__(
        self,
        split: ExampleSplit,
        *,
        context: int,
        batch_size: int,
        seed: int,
        pin_memory: bool = False,
    ) -> None:
        self._split = split
        self._pin = pin_memory
        self.n_windows = split.rows
        self.context = context
        self.epochs = Epochs(n_windows=split.rows, batch_size=batch_size)
        self.order = SampleOrder(split.rows, seed=seed)
        self.tokens_per_step = round(batch_size * split.n_tokens / split.rows)

    def epoch(self, position: int) -> float:
        """Return the passes over the data completed at a global position, as a fraction."""
        return position / self.n_windows

    def files(self, position: int) -> dict[str, Any]:
        """Return nothing: examples are read whole before the first step."""
        del position
        return {}

    def tokens(self, position: int) -> int:
        """Return the tokens of all rows before a global position, padding not counted."""
        passes, rest = divmod(position, self.n_windows)
        rows = self.order.windows(passes * self.n_windows, rest)
        return passes * self._split.n_tokens + int(self._split.lengths[rows].sum())

    def targets(self, position: int, count: int) -> int:
        """Return the learned tokens of the rows at ``position`` to ``position + count``."""
        return int(self._split.targets[self.order.windows(position, count)].sum())

    def batch(self, position: int, count: int) -> Batch:
        """Return the rows at ``position`` to ``position + count``, padded to the longest.

        ``inputs`` and ``targets`` are int64 of shape [count, length].
        """
        rows = self.order.windows(position, count)
        return padded(self._split, rows, context=self.context, pin=self._pin)


def example_evaluation_batches(
    split: ExampleSplit, *, context: int, batch_size: int, ranks: int = 1
) -> Iterator[Batch]:
    """Yield all rows, the longest first, so that little is padding.

    Every batch has equally many rows, or one fewer; of them each of ``ranks`` gets equally many.
    """
    order = np.argsort(-split.lengths, kind="stable")
    turns = -(-split.rows // (batch_size * ranks))
    for rows in np.array_split(order, turns * ranks):
        if len(rows):
            yield padded(split, rows, context=context, pin=False)


def padded(split: ExampleSplit, rows: NDArray[np.int64], *, context: int, pin: bool) -> Batch:
    """Return rows as a batch; beyond the end of a row inputs are 0 and nothing is learned.

    Positions after a row never change it: attention goes backwards only.
    """
    longest = int(split.lengths[rows].max()) - 1
    length = min(-(-longest // _MULTIPLE) * _MULTIPLE, context)
    inputs = np.zeros((len(rows), length), np.int64)
    targets = np.full((len(rows), length), IGNORE_INDEX, np.int64)
    for place, row in enumerate(rows):
        ids, scored = split.row(int(row))
        ids = ids.astype(np.int64)
        inputs[place, : len(ids) - 1] = ids[:-1]
        targets[place, : len(ids) - 1] = np.where(scored[1:], ids[1:], IGNORE_INDEX)
    tensors = {"inputs": torch.from_numpy(inputs), "targets": torch.from_numpy(targets)}
    return {name: tensor.pin_memory() for name, tensor in tensors.items()} if pin else tensors
