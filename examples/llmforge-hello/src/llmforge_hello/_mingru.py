"""A language model of minimal gated recurrent units.

The unit is that of L. Feng et al., "Were RNNs All We Needed?" (2024, arXiv:2410.01201)::

    gate   = sigmoid(W_g x)
    state' = (1 - gate) * state + gate * W_c x
"""

from __future__ import annotations

import torch
from llmforge.interfaces import IGNORE_INDEX, Batch
from torch import Tensor, nn
from torch.nn import functional


class States:
    """The states after every position seen; implements :class:`llmforge.interfaces.Cache`.

    All of them are kept, not only the latest, so that :meth:`set_lengths` can go back.
    """

    def __init__(self, model: MinGruModel, rows: int, length: int) -> None:
        weight = model.embedding.weight
        shape = (len(model.blocks), rows, length + 1, weight.shape[1])
        self._states = weight.new_zeros(shape)  # position 0: before the first token
        self._lengths = torch.zeros(rows, dtype=torch.int64, device=weight.device)

    def set_lengths(self, lengths: Tensor) -> None:
        """Forget what lies beyond each row's length, int64 [rows]."""
        self._lengths = lengths.clone()

    def last(self, layer: int) -> Tensor:
        """Return the layer's state after each row's last position, [rows, width]."""
        rows = torch.arange(len(self._lengths), device=self._lengths.device)
        return self._states[layer, rows, self._lengths]

    def put(self, layer: int, states: Tensor) -> None:
        """Keep the layer's states [rows, new, width] after the positions just fed."""
        new = torch.arange(1, states.shape[1] + 1, device=states.device)
        places = (self._lengths[:, None] + new)[:, :, None].expand_as(states)
        self._states[layer].scatter_(1, places, states.to(self._states.dtype))

    def advance(self, count: int) -> None:
        """Count the positions just fed, after all layers have put their states."""
        self._lengths = self._lengths + count


class MinGru(nn.Module):
    """The recurrent unit over a sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)
        self.candidate = nn.Linear(width, width)

    def forward(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Return the states [rows, positions, width] that follow ``state`` [rows, width]."""
        gate = torch.sigmoid(self.gate(inputs))
        keep, add = 1 - gate, gate * self.candidate(inputs)
        states = []
        for position in range(inputs.shape[1]):
            state = keep[:, position] * state + add[:, position]
            states.append(state)
        return torch.stack(states, dim=1)


class Block(nn.Module):
    """A recurrent and a feed-forward part, each normalised before and added to the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.recurrent_norm = nn.LayerNorm(width)
        self.recurrent = MinGru(width)
        self.mix = nn.Linear(width, width, bias=False)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, stream: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stream after the block and the recurrent states."""
        states = self.recurrent(self.recurrent_norm(stream), state)
        stream = stream + self.mix(states)
        return stream + self.feed(self.feed_norm(stream)), states


class MinGruModel(nn.Module):
    """Embedding, blocks and a head that shares the embedding's weights.

    Implements :class:`llmforge.interfaces.LanguageModel`.

    Args:
        vocab_size: number of token ids.
        context: sequence length in training.
        layers: number of blocks.
        width: size of the residual stream.
    """

    def __init__(self, vocab_size: int, *, context: int, layers: int, width: int) -> None:
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: Tensor, *, cache: States | None = None) -> Tensor:
        """Return logits [rows, positions, vocabulary] for int64 ``inputs`` [rows, positions]."""
        stream = self.embedding(inputs)
        for layer, block in enumerate(self.blocks):
            before = stream.new_zeros(stream[:, 0].shape) if cache is None else cache.last(layer)
            stream, states = block(stream, before)
            if cache is not None:
                cache.put(layer, states)
        if cache is not None:
            cache.advance(inputs.shape[1])
        return functional.linear(self.norm(stream), self.embedding.weight)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy and the number of scored targets."""
        targets = batch["targets"].flatten()
        logits = self(batch["inputs"]).flatten(0, 1).float()
        total = functional.cross_entropy(
            logits, targets, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return total, (targets != IGNORE_INDEX).sum()

    def new_cache(self, rows: int, length: int) -> States:
        """Return an empty cache for ``rows`` sequences of at most ``length`` positions."""
        return States(self, rows, length)

    def flops_per_token(self) -> float:
        """Return six operations for every weight of a matrix product."""
        return 6.0 * sum(value.numel() for value in self.parameters() if value.dim() == 2)
