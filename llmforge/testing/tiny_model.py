"""A model that is as small as one can be while every token matters to what follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmforge.interfaces import IGNORE_INDEX, Batch


class TinyCache:
    """The embeddings of the positions seen; see :class:`llmforge.interfaces.RowCache`."""

    def __init__(self, rows: int, length: int, width: int) -> None:
        self._seen = torch.zeros(rows, length, width)
        self._lengths = torch.zeros(rows, dtype=torch.int64)

    def set_lengths(self, lengths: Tensor) -> None:
        """Say how many positions of each row count."""
        self._lengths = lengths.clone()

    def extend(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Add ``embedded`` [rows, new, width]; return the sums up to each, and the positions."""
        positions = self._lengths[:, None] + torch.arange(embedded.shape[1])
        index = positions[:, :, None].expand_as(embedded)
        self._seen.scatter_(1, index, embedded)
        self._lengths = self._lengths + embedded.shape[1]
        return self._seen.cumsum(dim=1).gather(1, index), positions

    def new_row(self, length: int, *, source: TinyCache | None = None, count: int = 0) -> TinyCache:
        """Return a cache of one row, which holds the first ``count`` positions of ``source``."""
        row = TinyCache(1, length, self._seen.shape[2])
        if source is not None:
            row._seen[0, :count] = source._seen[0, :count]
            row._lengths = torch.tensor([count])
        return row

    def insert(self, source: TinyCache) -> None:
        """Add the row of ``source`` as the last."""
        row = self._seen.new_zeros(1, *self._seen.shape[1:])
        row[0, : source._seen.shape[1]] = source._seen[0]
        self._seen = torch.cat([self._seen, row])
        self._lengths = torch.cat([self._lengths, source._lengths])

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        rows = list(range(len(self._lengths)))
        rows[row] = rows[-1]
        self._seen, self._lengths = self._seen[rows[:-1]], self._lengths[rows[:-1]]


class TinyModel(nn.Module):
    """Predicts the next token from the mean of all embeddings so far and the latest one.

    Implements :class:`llmforge.interfaces.LanguageModel` on the CPU.

    Args:
        vocab_size: number of token ids.
        context: longest sequence.
        width: size of an embedding.
        dropout: share of activations dropped while training.
    """

    def __init__(
        self, vocab_size: int = 257, *, context: int = 16, width: int = 8, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(vocab_size, width)
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, vocab_size, bias=False)

    def forward(self, inputs: Tensor, *, cache: TinyCache | None = None) -> Tensor:
        """Return logits [rows, positions, vocabulary] for int64 ``inputs`` [rows, positions]."""
        embedded = self.embedding(inputs)
        if cache is None:
            sums = embedded.cumsum(dim=1)
            positions = torch.arange(inputs.shape[1], device=inputs.device)[None]
        else:
            sums, positions = cache.extend(embedded)
        means = sums / (positions[:, :, None] + 1)
        mixed = self.mix(torch.cat([embedded, means], dim=-1))
        logits: Tensor = self.head(self.dropout(torch.tanh(mixed)))
        return logits

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return summed cross-entropy and target count."""
        targets = batch["targets"].flatten()
        logits = self(batch["inputs"]).flatten(0, 1).float()
        total = functional.cross_entropy(
            logits, targets, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return total, (targets != IGNORE_INDEX).sum()

    def sequence_log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each row's summed log-probability of scored targets, and their number."""
        scored = batch["targets"] != IGNORE_INDEX
        chances = self(batch["inputs"]).float().log_softmax(-1)
        found = chances.gather(2, batch["targets"].where(scored, 0)[:, :, None])[:, :, 0]
        return found.where(scored, 0.0).sum(1), scored.sum(1)

    def new_cache(self, rows: int, length: int) -> Any:
        """Return an empty cache."""
        return TinyCache(rows, length, self.embedding.embedding_dim)

    def flops_per_token(self) -> float:
        """Return six operations for every weight of a matrix product."""
        return 6.0 * (self.mix.weight.numel() + self.head.weight.numel())
