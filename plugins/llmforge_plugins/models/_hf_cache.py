"""The key-value cache that Hugging Face models are given: llmforge's own in their interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from llmforge_plugins.models._cache import CacheStep, KeyValueCache


class HuggingFaceCache(Cache):
    """Keeps keys and values by position, so that rows of unequal length have no gaps.

    Args:
        layers: attention layers.
        rows: sequences.
        length: most positions of a sequence.
    """

    def __init__(self, *, layers: int, rows: int, length: int) -> None:
        super().__init__(layers=[])
        self._held = KeyValueCache(layers=layers, rows=rows, length=length)
        self._step: CacheStep | None = None

    def set_lengths(self, lengths: Tensor) -> None:
        """Say how many positions of each row count; see :class:`llmforge.interfaces.Cache`."""
        self._held.set_lengths(lengths)

    def select(self, rows: Tensor) -> None:
        """Make row ``i`` what row ``rows[i]`` was."""
        self._held.select(rows)

    def new_row(
        self, length: int, *, source: HuggingFaceCache | None = None, count: int = 0
    ) -> HuggingFaceCache:
        """Return a cache of one row; see :class:`llmforge.interfaces.RowCache`."""
        row = HuggingFaceCache(layers=0, rows=1, length=length)
        row._held = self._held.new_row(
            length, source=None if source is None else source._held, count=count
        )
        return row

    def insert(self, source: HuggingFaceCache) -> None:
        """Add the only row of ``source`` as the last."""
        self._held.insert(source._held)

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        self._held.remove(row)

    def begin(self, inputs: Tensor, *, context: int) -> tuple[Tensor, Tensor]:
        """Make room for ``inputs``, [rows, new].

        Returns:
            Their positions, [rows, new], and whether each sees each held one, bool of shape
            [rows, 1, new, held].
        """
        rows, new = inputs.shape
        step = self._step = self._held.begin(new, context=context, device=inputs.device)
        positions = step.positions.expand(rows, new)
        held = torch.arange(step.span.stop, device=inputs.device)
        return positions, held <= positions[:, None, :, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store [rows, heads, new, size]; return all keys and values of the layer so far."""
        del args, kwargs
        assert self._step is not None, "begin comes first"
        return self._step.extend(layer_idx, key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many positions were held before those of the step under way."""
        del layer_idx
        if self._step is None:
            return 0
        return int(self._step.span.stop) - int(self._step.positions.shape[-1])

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return how many positions are held with those of the step, and the first of them."""
        del query_length, layer_idx
        return (0 if self._step is None else int(self._step.span.stop)), 0
