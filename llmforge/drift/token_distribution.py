"""How often each token occurs in training data and in other data, and how far apart that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

BLOCK = 1_024
"""Tokens that are taken together: what stands together is of one subject, and varies with it."""

_DRAWS = 8
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class TokenShare:
    """A token that is more or less frequent than in training.

    Attributes:
        token: its id.
        training: its share of the training tokens.
        new: its share of the new tokens.
    """

    token: int
    training: float
    new: float


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """How far the token frequencies of new data are from those of training data.

    Attributes:
        bits: Jensen-Shannon divergence (Lin, "Divergence Measures Based on the Shannon Entropy",
            1991) in bits: 0 for equal frequencies, 1 when no token occurs in both.
        own: what it is between a part of the training data as large as the new data and the rest
            of it: how far apart two such amounts are by chance.
        unseen: share of the new tokens that do not occur in the training data.
        more: tokens that account for most of the divergence by being more frequent.
        less: those that do by being less frequent.
    """

    bits: float
    own: float
    unseen: float
    more: tuple[TokenShare, ...]
    less: tuple[TokenShare, ...]

    @property
    def excess(self) -> float:
        """Bits beyond what chance explains."""
        return max(0.0, self.bits - self.own)


def sample_blocks(total: int, *, most: int) -> list[tuple[int, int]]:
    """Return where to read at most ``most`` of ``total`` tokens: blocks, evenly spaced."""
    blocks = max(1, -(-total // BLOCK))
    wanted = max(1, min(blocks, most // BLOCK))
    starts = [index * blocks // wanted * BLOCK for index in range(wanted)]
    return [(start, min(start + BLOCK, total)) for start in starts]


def count_tokens(blocks: Sequence[NDArray[np.int64]], *, vocab_size: int) -> Counts:
    """Return how often each id occurs in ``blocks``, int64 [vocabulary]."""
    found = np.zeros(vocab_size, np.int64)
    for block in blocks:
        found += np.bincount(block, minlength=vocab_size)
    return found


def divergence(
    training: Sequence[NDArray[np.int64]],
    new: Sequence[NDArray[np.int64]],
    *,
    vocab_size: int,
    seed: int = 0,
) -> Divergence:
    """Return how far the tokens of ``new`` are from those of ``training``.

    Args:
        training: blocks of ids, int64.
        new: blocks of ids, int64.
        vocab_size: ids are below it.
        seed: of the parts of the training data that are drawn to be compared with the rest.
    """
    old = count_tokens(training, vocab_size=vocab_size)
    now = count_tokens(new, vocab_size=vocab_size)
    terms = _terms(old, now)
    shares = old / old.sum(), now / now.sum()
    order = np.argsort(-terms, kind="stable")

    def top(*, more: bool) -> tuple[TokenShare, ...]:
        chosen = [i for i in order if (shares[1][i] > shares[0][i]) == more and terms[i] > 0]
        return tuple(
            TokenShare(token=int(i), training=float(shares[0][i]), new=float(shares[1][i]))
            for i in chosen[:_SHOWN]
        )

    return Divergence(
        bits=float(terms.sum()),
        own=_own_divergence(training, old, size=int(now.sum()), seed=seed),
        unseen=float(now[old == 0].sum() / now.sum()),
        more=top(more=True),
        less=top(more=False),
    )


def _terms(one: Counts, other: Counts) -> NDArray[np.float64]:
    """Return what each token adds to the Jensen-Shannon divergence, in bits."""
    p, q = one / one.sum(), other / other.sum()
    middle = (p + q) / 2

    def half(of: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.zeros_like(of)
        there = of > 0
        found[there] = of[there] * np.log2(of[there] / middle[there]) / 2
        return found

    return half(p) + half(q)


def _own_divergence(
    blocks: Sequence[NDArray[np.int64]], counts: Counts, *, size: int, seed: int
) -> float:
    """Return the mean divergence of parts of ``size`` tokens from the rest; at most a half."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(_DRAWS if len(blocks) > 1 else 0):
        chosen: list[NDArray[np.int64]] = []
        missing = min(size, int(counts.sum()) // 2)
        for index in random.permutation(len(blocks)):
            if missing <= 0:
                break
            chosen.append(blocks[index][:missing])
            missing -= len(chosen[-1])
        part = count_tokens(chosen, vocab_size=len(counts))
        found.append(float(_terms(counts - part, part).sum()))
    return float(np.mean(found)) if found else 0.0
