"""Windows of tokens as tensors: shuffled for training, in order and complete for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmforge.data.order import Epochs, SampleOrder
from llmforge.data.shards import TokenSplit
from llmforge.errors import DataError
from llmforge.interfaces import IGNORE_INDEX, Batch
from llmforge.ramp import Ramp


class TrainBatches:
    """Training batches by global sample position.

    Args:
        split: the tokens.
        context: tokens per sequence.
        batch_size: sequences per optimizer step, over all ranks.
        order: which window is at which position; made for as many windows as there are.
        pin_memory: return page-locked tensors, for copying to a GPU while it computes.
    """

    def __init__(
        self,
        split: TokenSplit,
        *,
        context: int,
        batch_size: int | Ramp,
        order: SampleOrder,
        pin_memory: bool = False,
    ) -> None:
        self._windows = Windows(split, context)
        self.n_windows = self._windows.count
        if order.n_windows != self.n_windows:
            raise ValueError(f"an order of {order.n_windows} windows for {self.n_windows}")
        self.context = context
        self.epochs = Epochs(n_windows=self.n_windows, batch_size=batch_size)
        self.order = order
        self.tokens_per_step = self.epochs.batch_size.end * context
        self._names = [shard.name for shard in split.shards]
        self._pin, self._divided_at = pin_memory, split.divided_at

    def epoch(self, position: int) -> float:
        """Return the passes over the data completed at a global position, as a fraction."""
        return position / self.n_windows

    def tokens(self, position: int) -> int:
        """Return the tokens of all sequences before a global position."""
        return position * self.context

    def targets(self, position: int, count: int) -> int:
        """Return how many tokens are targets in the sequences at ``position``: all."""
        del position
        return count * self.context

    def files(self, position: int) -> dict[str, Any]:
        """Return how many files of the epoch at ``position`` were used up, and the one at hand."""
        progress = self.order.progress(position)
        return {
            "files": len(self._names),
            "files_processed": progress.finished,
            "file": self._names[progress.current],
        }

    def batch(self, position: int, count: int) -> Batch:
        """Return the sequences at ``position`` to ``position + count``.

        ``inputs`` and ``targets`` are int64 of shape [count, context], and so are ``segments`` and
        ``positions`` of windows that are divided into documents.
        """
        block = self._windows.read(self.order.windows(position, count))
        return _as_batch(block[:, :-1], block[:, 1:], divided_at=self._divided_at, pin=self._pin)


def train_batches(
    split: TokenSplit,
    *,
    context: int,
    batch_size: int | Ramp,
    seed: int,
    pin_memory: bool = False,
) -> TrainBatches:
    """Return the batches of a split in the order that ``seed`` gives.

    Raises:
        DataError: the split has fewer tokens than one window.
    """
    order = SampleOrder(Windows(split, context).per_shard, seed=seed)
    return TrainBatches(
        split, context=context, batch_size=batch_size, order=order, pin_memory=pin_memory
    )


def evaluation_batches(
    split: TokenSplit,
    *,
    context: int,
    batch_size: int,
    ranks: int = 1,
    name: str = "validation",
) -> Iterator[Batch]:
    """Yield the whole split in order: every token but the first is a target exactly once.

    Every batch has the same shape, [rows, context] with ``rows`` at most ``batch_size``, and as few
    as fill the batches, of which each of ``ranks`` gets equally many; targets beyond the end are
    ``IGNORE_INDEX`` and inputs there 0.

    Raises:
        DataError: as :func:`require_targets`.
    """
    require_targets(split, name=name)
    return _evaluation_batches(split, context, batch_size, ranks)


def require_targets(split: TokenSplit, *, name: str) -> None:
    """Check that something can be scored.

    Raises:
        DataError: the split has fewer than two tokens.
    """
    if split.n_tokens < 2:
        raise DataError(
            f"the {name} split has {split.n_tokens} tokens: nothing to evaluate",
            remedy="give it more text",
        )


def _evaluation_batches(
    split: TokenSplit, context: int, batch_size: int, ranks: int
) -> Iterator[Batch]:
    scored = split.n_tokens - 1
    windows = -(-scored // context)
    turns = -(-windows // (batch_size * ranks))
    rows = -(-windows // (turns * ranks))
    size = rows * context
    for start in range(0, scored, size):
        block = split.read(start, start + size + 1)
        inputs = np.zeros(size, np.int64)
        targets = np.full(size, IGNORE_INDEX, np.int64)
        inputs[: len(block) - 1] = block[:-1]
        targets[: len(block) - 1] = block[1:]
        yield _as_batch(
            inputs.reshape(rows, context),
            targets.reshape(rows, context),
            divided_at=split.divided_at,
            pin=False,
        )


def _as_batch(
    inputs: NDArray[Any], targets: NDArray[Any], *, divided_at: int | None, pin: bool
) -> Batch:
    arrays = {"inputs": inputs, "targets": targets}
    if divided_at is not None:
        arrays |= _documents(inputs, divided_at)
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
        for name, values in arrays.items()
    }
    return {name: tensor.pin_memory() for name, tensor in tensors.items()} if pin else tensors


class Windows:
    """The windows of ``context`` + 1 tokens that a split can be cut into.

    Window ``i`` of a shard has the inputs ``ids[i * context : (i + 1) * context]`` and the targets
    one further; what is left at the end of a shard is not trained on. Windows are numbered
    through, shard after shard.

    Args:
        split: the tokens.
        context: tokens per sequence.
        name: of the split, for the error.

    Attributes:
        per_shard: number of windows in each shard.
        count: number of all.

    Raises:
        DataError: no shard has enough tokens for one window.
    """

    def __init__(self, split: TokenSplit, context: int, *, name: str = "train") -> None:
        self.per_shard = [max(0, (len(shard.ids) - 1) // context) for shard in split.shards]
        self.count = sum(self.per_shard)
        if self.count < 1:
            raise DataError(
                f"the {name} split has {split.n_tokens} tokens, too few for one window of "
                f"context {context} (it needs {context + 1})",
                remedy="give more text, or a smaller context in the [model] options",
            )
        self._shards = [shard.ids for shard in split.shards]
        self._context = context
        self._span = np.arange(context + 1)
        self._ends = np.cumsum(self.per_shard)

    def read(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of ``windows``, int64 of shape [windows, context + 1]."""
        block = np.empty((len(windows), self._context + 1), np.int64)
        owners = np.searchsorted(self._ends, windows, side="right")
        for owner in np.unique(owners):
            rows = owners == owner
            first = self._ends[owner] - self.per_shard[owner]
            starts = (windows[rows] - first) * self._context
            block[rows] = self._shards[owner][starts[:, None] + self._span]
        return block


def _documents(inputs: NDArray[Any], first: int) -> dict[str, NDArray[np.int64]]:
    """Return the number of each position's document in its window, and its position in that."""
    begins = inputs == first
    begins[:, 0] = False  # the first one has the number 0 whether it begins here or before
    index = np.arange(inputs.shape[1])
    starts = np.maximum.accumulate(np.where(begins, index, 0), axis=1)
    return {"segments": np.cumsum(begins, axis=1), "positions": index - starts}
