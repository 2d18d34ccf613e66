"""Full training windows of a split, none of them across two shards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmforge.data.split import TokenSplit
from llmforge.errors import DataError


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
