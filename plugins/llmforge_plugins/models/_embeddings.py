"""Embeddings of more than the token itself: what was before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmforge_plugins.models._cache import CacheStep
from llmforge_plugins.models._segments import Segments

NOTHING = -1
"""Stands for the token before the first of an example."""

_FACTORS = 36_313, 27_191  # two primes: pairs spread over a table of any size


class BigramEmbedding(nn.Module):
    """Embeds a token together with the one before it, by the hash of the two.

    Pairs that share a row of the table share its embedding (the hashing trick, Weinberger et al.
    2009). As the hashed n-gram embeddings of Pagnoni et al., "Byte Latent Transformer" (2024),
    over tokens. It begins as zeros.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, width)

    def forward(self, inputs: Tensor, before: Tensor) -> Tensor:
        """Return embeddings [rows, positions, width] of tokens and those before them."""
        mixed = (inputs * _FACTORS[0]) ^ ((before + 1) * _FACTORS[1])
        found: Tensor = self.embedding(mixed % self.embedding.num_embeddings)
        return found


class TokenShift(nn.Module):
    """Adds to each token's embedding that of the token before, by a learned share per channel.

    The shift of Peng et al., "RWKV" (2023), once at the input. It begins as nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(width))

    def forward(self, embedded: Tensor, before: Tensor, table: Tensor) -> Tensor:
        """Return ``embedded`` [rows, positions, width] with what ``before`` adds by ``table``."""
        there = (before != NOTHING)[..., None]
        return embedded + self.share * (functional.embedding(before.clamp(min=0), table) * there)


def tokens_before(inputs: Tensor, segments: Segments | None) -> Tensor:
    """Return the token before each in its example, ``NOTHING`` at its beginning.

    Args:
        inputs: int64 [rows, positions].
        segments: where the examples are; where they say which positions are computed, the
            result is for those.
    """
    before = functional.pad(inputs, (1, 0), value=NOTHING)[:, :-1]
    if segments is None:
        return before
    if segments.index is not None:
        before = before.flatten()[segments.index][None]
    return before.masked_fill(segments.positions == 0, NOTHING)


def cached_tokens_before(inputs: Tensor, step: CacheStep, *, layer: int) -> Tensor:
    """Do the same for new positions of a cache, which holds all tokens as one more ``layer``."""
    ids = inputs[:, None, :, None]
    held = step.extend(layer, ids, ids[..., :0])[0][:, 0, :, 0]
    positions = step.positions.expand(inputs.shape)
    before = held.gather(1, (positions - 1).clamp(min=0))
    return before.masked_fill(positions == 0, NOTHING)
