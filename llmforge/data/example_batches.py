"""Rows of examples as tensors: shuffled for training, sorted by length for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmforge.data.example_rows import ExampleSplit
from llmforge.data.order import Epochs, SampleOrder
from llmforge.interfaces import IGNORE_INDEX, Batch
from llmforge.interfaces.objective import padded_length

_CORE = "next_token"
"""The form whose batches are made here; an objective makes those of others itself."""

_WORD = (1 << 64) - 1
_EVALUATION = 0x5EED
"""In place of the run's seed: an evaluation is the same one each time."""


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
        if self._split.objective.form == _CORE:
            return padded(self._split, rows, context=self.context, pin=self._pin)
        seeds = _seeds(self.order.seed, np.arange(position, position + count))
        return _made(self._split, rows, context=self.context, seeds=seeds, pin=self._pin)


def example_evaluation_batches(
    split: ExampleSplit, *, context: int, batch_size: int, ranks: int = 1
) -> Iterator[Batch]:
    """Yield all rows, the longest first, so that little is padding.

    Every batch has equally many rows, or one fewer; of them each of ``ranks`` gets equally many.
    """
    order = np.argsort(-split.lengths, kind="stable")
    turns = -(-split.rows // (batch_size * ranks))
    for rows in np.array_split(order, turns * ranks):
        if not len(rows):
            continue
        if split.objective.form == _CORE:
            yield padded(split, rows, context=context, pin=False)
        else:
            seeds = _seeds(_EVALUATION, rows)
            yield _made(split, rows, context=context, seeds=seeds, pin=False)


def padded(split: ExampleSplit, rows: NDArray[np.int64], *, context: int, pin: bool) -> Batch:
    """Return rows as a batch; beyond the end of a row inputs are 0 and nothing is learned.

    Positions after a row never change it: attention goes backwards only.
    """
    length = padded_length([int(split.lengths[rows].max()) - 1], context)
    inputs = np.zeros((len(rows), length), np.int64)
    targets = np.full((len(rows), length), IGNORE_INDEX, np.int64)
    for place, row in enumerate(rows):
        ids, scored = split.row(int(row))
        ids = ids.astype(np.int64)
        inputs[place, : len(ids) - 1] = ids[:-1]
        targets[place, : len(ids) - 1] = np.where(scored[1:], ids[1:], IGNORE_INDEX)
    return _tensors({"inputs": inputs, "targets": targets}, pin=pin)


def _made(
    split: ExampleSplit,
    rows: NDArray[np.int64],
    *,
    context: int,
    seeds: list[int],
    pin: bool,
) -> Batch:
    """Return rows as the batch that the objective makes of them."""
    found = [split.row(int(row)) for row in rows]
    return _tensors(split.objective.batch(found, context=context, seeds=seeds), pin=pin)


def _tensors(arrays: Mapping[str, NDArray[Any]], *, pin: bool) -> Batch:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: tensor.pin_memory() for name, tensor in tensors.items()} if pin else tensors


def _seeds(seed: int, places: NDArray[np.int64]) -> list[int]:
    """Return a seed of 128 bits for each place, the same wherever it is computed."""
    return [(seed & _WORD) << 64 | int(place) for place in places]
