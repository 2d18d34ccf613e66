"""From logits to next tokens: the filters and the draw.

A token is drawn by inverting the cumulative distribution at one uniform number, so that a draw
needs a single random number however large the vocabulary is. The numbers of a continuation are
drawn ahead from a generator of its own, which is what makes it independent of its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llmforge.errors import ForgeError

NOT_FINITE = -1
"""Chosen in place of a token where the logits hold no usable distribution."""

_COLDEST = 1e-6
"""Below this temperature the draw is the maximum, and dividing by it could overflow."""

_HEAD = 256
"""Likeliest tokens looked at before a whole vocabulary is sorted."""

Filters = tuple[float, int, float, float]  # temperature, top-k, top-p, min-p


class RowChoice:
    """What the choices of one row depend on besides its logits; no other row has a part in it.

    Args:
        options: the sampler's options.
        prompt: token ids of the prompt; they count for the repetition penalty.
        seed: of the row.
        vocab_size: number of logits.
        device: where the logits are.
        limit: tokens that are chosen at most, instead of the option.
        greedy: take the likeliest whatever the options say.
        bias: what is added to the logits of some tokens.

    Attributes:
        step: how many tokens were chosen.
        filters: temperature, top-k, top-p and min-p; None to take the likeliest. Rows of equal
            filters are drawn together.
    """

    def __init__(
        self,
        options: Any,
        *,
        prompt: Sequence[int],
        seed: int,
        vocab_size: int,
        device: torch.device,
        limit: int | None = None,
        greedy: bool = False,
        bias: Mapping[int, float] | None = None,
    ) -> None:
        self.step = 0
        self._options = options
        self.filters: Filters | None = None
        self._noise: list[float] = []
        if not (greedy or options.greedy or options.temperature < _COLDEST):
            self.filters = (options.temperature, options.top_k, options.top_p, options.min_p)
            self._noise = _noise(seed, limit or options.max_new_tokens)
        self._seen = self._counts = self._bias = None
        if options.repetition_penalty != 1:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[list(prompt)] = True
        if options.presence_penalty or options.frequency_penalty:
            self._counts = torch.zeros(vocab_size, device=device)
        if bias:
            self._bias = torch.zeros(vocab_size, device=device)
            self._bias[list(bias)] = torch.tensor(list(bias.values()), device=device)

    @property
    def adjusts(self) -> bool:
        """Return whether logits are changed before a token is chosen."""
        return any(part is not None for part in (self._seen, self._counts, self._bias))

    def noise(self, count: int = 1) -> list[float]:
        """Return the random numbers of the next tokens, in (0, 1]."""
        return self._noise[self.step : self.step + count]

    def adjusted(self, logits: Tensor) -> Tensor:
        """Return ``logits`` [vocabulary] with the bias added, and then every penalty taken."""
        if self._bias is not None:
            logits = logits + self._bias
        if self._counts is not None:
            # As OpenAI describes them: for what was generated, once and by how often.
            logits = logits - self._options.presence_penalty * (self._counts > 0)
            logits = logits - self._options.frequency_penalty * self._counts
        if self._seen is not None:
            logits = penalise(logits, self._seen, penalty=self._options.repetition_penalty)
        return logits

    def took(self, token: Tensor) -> None:
        """Count ``token``, int64 of one element, as chosen."""
        self.step += 1
        if self._seen is not None:
            self._seen[token.clamp_min(0)] = True
        if self._counts is not None:
            self._counts[token.clamp_min(0)] += 1


def choose(logits: Tensor, rows: Sequence[RowChoice]) -> Tensor:
    """Return the next tokens, int64 [rows], for ``logits`` [rows, vocabulary].

    Rows whose logits are not finite get ``NOT_FINITE``.
    """
    if any(row.adjusts for row in rows):
        logits = torch.stack(
            [row.adjusted(line) for row, line in zip(rows, logits.float(), strict=True)]
        )
    groups: dict[Filters | None, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.filters, []).append(place)
    noise = [row.noise() for row in rows]
    if len(groups) == 1:
        tokens = _chosen(logits, rows[0].filters, noise)
    else:
        tokens = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
        for filters, places in groups.items():
            index = torch.tensor(places, device=logits.device)
            tokens[index] = _chosen(logits[index], filters, [noise[place] for place in places])
    for place, row in enumerate(rows):
        row.took(tokens[place : place + 1])
    return tokens


def choose_along(logits: Tensor, row: RowChoice, proposed: Sequence[int]) -> list[int]:
    """Return the next tokens of one row: those of ``proposed`` that it chooses, and one more.

    Each is chosen as :func:`choose` would choose it had the others been given one at a time: from
    the logits, the tokens before and the random number of its own step. So proposals decide how
    many tokens a pass brings, and never which.

    Args:
        logits: after the newest token and after each proposed one, [1 + proposed, vocabulary].
        row: what the choices depend on besides.
        proposed: tokens that may follow.
    """
    if row.adjusts:  # every choice changes the logits of the next
        tokens: list[int] = []
        for line, guess in zip(logits, (*proposed, None), strict=True):
            tokens.append(int(choose(line[None], [row])))
            if tokens[-1] != guess:
                break
        return tokens
    chosen = _chosen(logits, row.filters, [[number] for number in row.noise(len(logits))])
    tokens = chosen.tolist()
    agreed = 0
    while agreed < len(proposed) and tokens[agreed] == proposed[agreed]:
        agreed += 1
    row.step += agreed + 1
    return tokens[: agreed + 1]


def _chosen(logits: Tensor, filters: Filters | None, noise: Sequence[Sequence[float]]) -> Tensor:
    """Choose for rows of equal filters, each with a random number of its own."""
    if filters is None:
        peaks, tokens = logits.max(dim=-1)
        return torch.where(peaks.isfinite(), tokens, NOT_FINITE)
    temperature, top_k, top_p, min_p = filters
    return draw(
        logits.float(),
        torch.tensor(noise, device=logits.device),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
    )


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
    arXiv:1909.05858. ``seen`` is bool of the shape of ``logits``.
    """
    changed = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, changed, logits)


def not_finite(step: int) -> ForgeError:
    """Return the error of a row that got ``NOT_FINITE`` after ``step`` tokens."""
    return ForgeError(
        f"the model's output is not finite (NaN or infinity) at generated token {step + 1}",
        remedy="its weights are damaged or overflow: try another checkpoint, or --dtype fp32",
    )


def stream_seed(seed: int, prompt: str, ordinal: int) -> int:
    """Return the seed of the ``ordinal``-th continuation of ``prompt`` under ``seed``.

    It does not depend on the place in the batch or on the other prompts.
    """
    digest = hashlib.blake2b(f"{seed}:{ordinal}:{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _noise(seed: int, count: int) -> list[float]:
    """Return ``count`` uniform numbers in (0, 1], of the precision of float32.

    Drawn on the CPU so that every device gets the same ones.
    """
    numbers: list[float] = (
        1 - torch.rand(count, generator=torch.Generator().manual_seed(seed))
    ).tolist()
    return numbers
