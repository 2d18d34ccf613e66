"""Rows of examples as tensors: shuffled for training, sorted by length for evaluation.

A row of a batch is one example, or a bin of several when the split is packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmforge.data.example_rows import ExampleSplit
from llmforge.data.order import Epochs, LengthOrder, SampleOrder
from llmforge.interfaces import IGNORE_INDEX, REFERENCE, Batch
from llmforge.interfaces.objective import MULTIPLE, padded_length

_CORE = "next_token"
"""The form whose batches are made here; an objective makes those of others itself."""

_WORD = (1 << 64) - 1
_EVALUATION = 0x5EED
"""In place of the run's seed: an evaluation is the same one each time."""


class ExampleBatches:
    """Training batches of examples by global position, as :class:`TrainBatches` are of text.

    Bins are drawn like windows of text: all are nearly full. Rows of single examples are drawn so
    that those of like length meet.

    Args:
        split: the rows.
        context: inputs of a row at most.
        batch_size: rows per optimizer step, over all ranks; of a packed split bins.
        seed: of the order.
        pin_memory: return page-locked tensors.

    Attributes:
        n_windows: rows that a batch is made of: bins of a packed split.
        packed: whether these are bins.
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
        self.n_windows = split.sequences
        self.packed = split.bins is not None
        self.context = context
        self.epochs = Epochs(n_windows=self.n_windows, batch_size=batch_size)
        self._tokens, self._targets = split.lengths, split.targets
        self.order: SampleOrder
        if split.bins is None:
            self.order = LengthOrder(split.lengths, batch_size=batch_size, seed=seed)
        else:
            self._tokens = split.bins.sums(self._tokens)
            self._targets = split.bins.sums(self._targets)
            self.order = SampleOrder(self.n_windows, seed=seed)
        self.tokens_per_step = round(batch_size * split.n_tokens / self.n_windows)

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
        return passes * self._split.n_tokens + int(self._tokens[rows].sum())

    def targets(self, position: int, count: int) -> int:
        """Return the learned tokens of the rows at ``position`` to ``position + count``."""
        return int(self._targets[self.order.windows(position, count)].sum())

    def padding(self, micro: int) -> float:
        """Return the share of the first epoch's positions that are padding.

        Args:
            micro: rows of a micro-batch.
        """
        filled = self._split.inputs[self.order.windows(0, self.n_windows)]
        turns = np.arange(0, len(filled), micro)
        counts = np.diff(np.append(turns, len(filled)))
        longest = -(-np.maximum.reduceat(filled, turns) // MULTIPLE) * MULTIPLE
        positions = int((counts * np.minimum(longest, self.context)).sum())
        return 1 - int(filled.sum()) / positions

    def batch(self, position: int, count: int) -> Batch:
        """Return the rows at ``position`` to ``position + count``, padded to the longest.

        ``inputs`` and ``targets`` are int64 of shape [count, length], and so are ``segments`` and
        ``positions`` of packed rows.
        """
        rows = self.order.windows(position, count)
        if self._split.objective.form == _CORE:
            return as_batch(self._split, rows, context=self.context, pin=self._pin)
        seeds = _seeds(self.order.seed, np.arange(position, position + count))
        return _made(self._split, rows, context=self.context, seeds=seeds, pin=self._pin)


def example_evaluation_batches(
    split: ExampleSplit, *, context: int, batch_size: int, ranks: int = 1
) -> Iterator[Batch]:
    """Yield all rows, the longest first, so that little is padding.

    Every batch has equally many rows, or one fewer; of them each of ``ranks`` gets equally many.
    """
    for rows in evaluation_order(split, batch_size=batch_size, ranks=ranks):
        yield evaluation_batch(split, rows, context=context)


def evaluation_order(
    split: ExampleSplit, *, batch_size: int, ranks: int = 1
) -> Iterator[NDArray[np.int64]]:
    """Yield which rows are in each batch of :func:`example_evaluation_batches`."""
    order = np.argsort(-split.inputs, kind="stable")
    turns = -(-split.sequences // (batch_size * ranks))
    for rows in np.array_split(order, turns * ranks):
        if len(rows):
            yield rows


def evaluation_batch(split: ExampleSplit, rows: NDArray[np.int64], *, context: int) -> Batch:
    """Return ``rows`` as a batch that is the same one each time."""
    if split.objective.form == _CORE:
        return as_batch(split, rows, context=context, pin=False)
    return _made(split, rows, context=context, seeds=_seeds(_EVALUATION, rows), pin=False)


def as_batch(split: ExampleSplit, rows: NDArray[np.int64], *, context: int, pin: bool) -> Batch:
    """Return rows as a batch; beyond the end of a row inputs are 0 and nothing is learned.

    Positions after a row never change it: attention goes backwards only. Of a packed split rows
    are bins, and the batch says which positions are of which example; padding is a segment of its
    own, after the others.
    """
    length = padded_length([int(split.inputs[rows].max())], context)
    inputs = np.zeros((len(rows), length), np.int64)
    targets = np.full((len(rows), length), IGNORE_INDEX, np.int64)
    if split.bins is None:
        members, counts = rows, np.ones(len(rows), np.int64)
    else:
        members, counts = split.bins.of(rows)
    sizes = split.lengths[members] - 1
    before = np.cumsum(sizes) - sizes  # inputs of all examples before each
    within = np.arange(int(sizes.sum())) - np.repeat(before, sizes)
    read = within + np.repeat(split.starts[members], sizes)
    owner = np.repeat(np.arange(len(rows)), counts)  # the row of each example
    first = np.cumsum(counts) - counts
    offset = before - before[first][owner]  # of each example within its row
    written = within + np.repeat(owner * length + offset, sizes)
    inputs.reshape(-1)[written] = split.ids[read]
    following = split.ids[read + 1].astype(np.int64)
    targets.reshape(-1)[written] = np.where(split.scored[read + 1], following, IGNORE_INDEX)
    arrays = {"inputs": inputs, "targets": targets}
    if split.bins is not None:
        number = np.arange(len(members)) - first[owner]
        segments = np.repeat(counts[:, None], length, axis=1)
        segments.reshape(-1)[written] = np.repeat(number, sizes)
        filled = split.inputs[rows]
        positions = np.maximum(np.arange(length) - filled[:, None], 0)
        positions.reshape(-1)[written] = within
        arrays |= {"segments": segments, "positions": positions}
    return _tensors(arrays, pin=pin)


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
    arrays = split.objective.batch(found, context=context, seeds=seeds)
    if split.reference is not None:
        arrays = {**arrays, REFERENCE: split.reference[rows].view(np.int32)}
    return _tensors(arrays, pin=pin)


def _tensors(arrays: Mapping[str, NDArray[Any]], *, pin: bool) -> Batch:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: tensor.pin_memory() for name, tensor in tensors.items()} if pin else tensors


def _seeds(seed: int, places: NDArray[np.int64]) -> list[int]:
    """Return a seed of 128 bits for each place, the same wherever it is computed."""
    return [(seed & _WORD) << 64 | int(place) for place in places]
