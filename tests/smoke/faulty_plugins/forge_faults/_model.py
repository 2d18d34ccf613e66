"""A tiny model with a fault in its loss."""

from __future__ import annotations

import os

import torch

from llmforge.interfaces import Batch
from llmforge.testing import TinyModel

_TOO_MANY_BYTES = 1 << 60


class FaultyModel(TinyModel):
    """See :class:`forge_faults.model.Faulty`."""

    def __init__(self, vocab_size: int, *, context: int) -> None:
        super().__init__(vocab_size, context=context)
        self._nan_at = int(os.environ.get("FAULT_NAN_AT", "0"))
        self._memory = int(os.environ.get("FAULT_MEMORY", "0"))
        self._memory_from = int(os.environ.get("FAULT_MEMORY_FROM", "0"))
        self._computed = 0

    def loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss, unless this is where it shall fail."""
        rows = batch["inputs"].shape[0]
        if self._memory and rows > self._memory and self._computed >= self._memory_from:
            torch.empty(_TOO_MANY_BYTES, dtype=torch.uint8)  # the allocator's own error
        total, count = super().loss(batch)
        if self.training:
            self._computed += 1
            if self._computed == self._nan_at:
                total = total * float("nan")
        return total, count
