"""From logits to next tokens: the filters and the draw.

A token is drawn by inverting the cumulative distribution at one uniform number, so that a draw
needs a single random number however large the vocabulary is. The numbers of a continuation are
drawn ahead from a generator of its own, which is what makes it independent of its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NOT_FINITE = -1
"""Chosen in place of a token where the logits hold no usable distribution."""

_COLDEST = 1e-6
"""Below this temperature the draw is the maximum, and dividing by it could overflow."""

_HEAD = 256
"""Likeliest tokens looked at before a whole vocabulary is sorted."""


class Chooser:
    """Picks the next token of every row.

    Args:
        options: the sampler's options.
        prompts: token ids of each row's prompt; they count for the repetition penalty.
        seeds: one seed per row.
        vocab_size: number of logits per row.
        device: where the logits are.
        limit: tokens that are chosen at most, instead of the option.
        greedy: take the likeliest whatever the options say.
    """

    def __init__(
        self,
        options: Any,
        *,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        vocab_size: int,
        device: torch.device,
        limit: int | None = None,
        greedy: bool = False,
    ) -> None:
        self._options = options
        self._greedy = greedy or options.greedy or options.temperature < _COLDEST
        self._noise = (
            None if self._greedy else _noise(seeds, limit or options.max_new_tokens).to(device)
        )
        self._seen = None
        if options.repetition_penalty != 1:
            self._seen = _seen(prompts, vocab_size).to(device)

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only, int64 indices on the device of the logits."""
        if self._noise is not None:
            self._noise = self._noise[:, rows]
        if self._seen is not None:
            self._seen = self._seen[rows]

    def __call__(self, logits: Tensor, step: int) -> Tensor:
        """Return the next tokens, int64 [rows], for ``logits`` [rows, vocabulary].

        ``step`` counts the tokens already chosen. Rows whose logits are not finite get
        ``NOT_FINITE``.
        """
        if self._seen is not None:
            logits = penalise(logits, self._seen, penalty=self._options.repetition_penalty)
        if self._noise is None:
            peaks, tokens = logits.max(dim=-1)
            tokens = torch.where(peaks.isfinite(), tokens, NOT_FINITE)
        else:
            tokens = draw(
                logits.float(),
                self._noise[step],
                temperature=self._options.temperature,
                top_k=self._options.top_k,
                top_p=self._options.top_p,
                min_p=self._options.min_p,
            )
        if self._seen is not None:
            self._seen.scatter_(1, tokens.clamp_min(0)[:, None], True)
        return tokens


def draw(
    logits: Tensor,
    noise: Tensor,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """Draw one token per row, int64 [rows]; ``NOT_FINITE`` where the logits are not finite.

    Top-k: Fan et al. 2018, arXiv:1805.04833. Top-p: Holtzman et al. 2020, arXiv:1904.09751.
    Min-p: Nguyen et al. 2024, arXiv:2407.01082.

    Args:
        logits: float32 [rows, vocabulary].
        noise: uniform numbers in (0, 1], float32 [rows, 1].
        temperature: divides the logits, above 0.
        top_k: how many of the likeliest tokens stay; 0 keeps all.
        top_p: probability the nucleus must reach; 1 keeps all. Taken after top-k.
        min_p: least probability relative to the likeliest token; 0 keeps all.
    """
    order = None
    if 0 < top_k < logits.shape[-1]:
        logits, order = logits.topk(top_k, dim=-1)
    weights = torch.softmax(logits / temperature, dim=-1)
    if top_p < 1 and order is None:
        weights, order = _likeliest(weights, top_p)
    if min_p > 0:
        likely = weights >= min_p * weights.amax(dim=-1, keepdim=True)
        if order is None:
            weights = weights * likely
    cumulative = weights.cumsum(dim=-1)
    last = cumulative.shape[-1] - 1
    mass = cumulative[:, -1:]
    if top_p < 1:
        nucleus = torch.searchsorted(cumulative, mass.new_full(mass.shape, top_p))
        mass = cumulative.gather(-1, nucleus.clamp_max_(last))
    if min_p > 0 and order is not None:
        count = likely.sum(dim=-1, keepdim=True).clamp_min_(1)
        mass = torch.minimum(mass, cumulative.gather(-1, count - 1))
    chosen = torch.searchsorted(cumulative, noise * mass).clamp_max_(last)
    tokens = chosen if order is None else order.gather(-1, chosen)
    return tokens.masked_fill_(mass.isnan(), NOT_FINITE).squeeze(-1)


def _likeliest(weights: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the weights from large to small, and their tokens, as far as ``top_p`` needs them.

    Sorting a whole vocabulary costs more than a small model's step, and the nucleus is nearly
    always within its head.
    """
    if weights.shape[-1] > 2 * _HEAD and weights.device.type == "cpu":
        head, order = weights.topk(_HEAD, dim=-1)
        if bool((head.sum(dim=-1) > top_p).all()):
            return head, order
    return weights.sort(dim=-1, descending=True)


def penalise(logits: Tensor, seen: Tensor, *, penalty: float) -> Tensor:
    """Return ``logits`` with the seen tokens made less likely (for a ``penalty`` above 1).

    Positive logits are divided, negative ones multiplied: Keskar et al. 2019, CTRL,
    arXiv:1909.05858. ``seen`` is bool [rows, vocabulary].
    """
    changed = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, changed, logits)


def stream_seed(seed: int, prompt: str, ordinal: int) -> int:
    """Return the seed of the ``ordinal``-th continuation of ``prompt`` under ``seed``.

    It does not depend on the place in the batch or on the other prompts.
    """
    digest = hashlib.blake2b(f"{seed}:{ordinal}:{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _noise(seeds: Sequence[int], count: int) -> Tensor:
    """Return uniform numbers in (0, 1], float32 [count, rows, 1], each row from its own seed.

    Drawn on the CPU so that every device gets the same ones.
    """
    rows = [torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return 1 - torch.stack(rows, dim=1)[:, :, None]


def _seen(prompts: Sequence[Sequence[int]], vocab_size: int) -> Tensor:
    seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
    for row, ids in enumerate(prompts):
        seen[row, list(ids)] = True
    return seen
