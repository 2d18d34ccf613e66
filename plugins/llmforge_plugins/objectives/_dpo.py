"""Rows of a prompt with two answers, and the losses that compare their log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmforge.errors import DataError
from llmforge.interfaces import (
    IGNORE_INDEX,
    REFERENCE,
    SEQUENCE_LOG_PROBS,
    Batch,
    Example,
    ExampleEncoder,
    Objective,
    Preference,
    Row,
    SequenceScorer,
    padded_rows,
)

if TYPE_CHECKING:
    from torch import Tensor

_SECOND = 2
"""In ``scored`` at the first token of the rejected answer's sequence, which is never learned."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Log-probabilities of answers in nats, each fp32 of shape [pairs].

    Attributes:
        chosen: of the chosen answers.
        rejected: of the rejected ones.
        mean_chosen: the same for a token of them, on average.
        mean_rejected: of the rejected ones.
        lead: by how much the reference preferred the chosen answers; 0 without a reference.
    """

    chosen: Tensor
    rejected: Tensor
    mean_chosen: Tensor
    mean_rejected: Tensor
    lead: Tensor

    @property
    def logits(self) -> Tensor:
        """By how much more than the reference the model prefers the chosen answers."""
        return self.chosen - self.rejected - self.lead


class PreferencePairs(Objective):
    """A row is the prompt with the chosen answer and then the prompt with the rejected one.

    Scored are the tokens of the answers, the one that ends the turn included; a pair counts once.

    Args:
        options: of ``[objective.dpo]``.
        measures: names of reward margin and accuracy.
    """

    form = SEQUENCE_LOG_PROBS
    packs = False
    sequences = 2
    key = ("chosen", "rejected")

    def __init__(self, options: Any, *, measures: Sequence[str]) -> None:
        self.measures = measures
        self._loss, self._margin = _losses(options)
        self.needs_reference = options.loss in ("sigmoid", "ipo")

    def rows(self, example: Example, encoder: ExampleEncoder) -> tuple[int, Sequence[Row]]:
        """Return the two sequences as one row, and as its length that of the longer one.

        Each is cut on its own. When one of them is left out, or nothing of its answer is left,
        so is the pair.
        """
        if not isinstance(example, Preference):
            raise DataError("it has no pair of answers", remedy='use the data "preference"')
        both = [
            encoder.conversation((*example.prompt, answer))
            for answer in (example.chosen, example.rejected)
        ]
        total = max(len(row.ids) for row in both)
        cut = [encoder.cut(row) for row in both]
        if not all(cut):
            return total, []
        chosen, rejected = (parts[0] for parts in cut)
        ids = (*chosen.ids, *rejected.ids)
        if not (chosen.targets and rejected.targets):
            return total, [Row(ids, (0,) * len(ids))]
        return total, [Row(ids, (*chosen.scored, _SECOND, *rejected.scored[1:]))]

    def targets(self, scored: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return 1 for each pair."""
        return (scored > 0).astype(np.int64)

    def parts(
        self, ids: NDArray[Any], scored: NDArray[Any]
    ) -> Sequence[tuple[str, NDArray[Any], NDArray[Any]]]:
        """Return the sequences of both answers."""
        begin = int(np.flatnonzero(scored == _SECOND)[0])
        learned = scored == 1
        return [
            ("chosen", ids[:begin], learned[:begin]),
            ("rejected", ids[begin:], learned[begin:]),
        ]

    def batch(
        self, rows: Sequence[tuple[Any, Any]], *, context: int, seeds: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        """Return ``inputs`` and ``targets``, int64 [pairs, 2, length], the chosen answers first."""
        del seeds
        parts = [part for row in rows for part in self.parts(*row)]
        inputs = padded_rows([ids[:-1] for _, ids, _ in parts], fill=0, context=context)
        following = [
            np.where(learned, ids.astype(np.int64), IGNORE_INDEX)[1:] for _, ids, learned in parts
        ]
        targets = padded_rows(following, fill=IGNORE_INDEX, context=context)
        shape = (len(rows), self.sequences, -1)
        return {"inputs": inputs.reshape(shape), "targets": targets.reshape(shape)}

    def loss(self, model: SequenceScorer, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed loss of the batch's pairs, and their number."""
        pairs, real = self._pairs(model, batch)
        return self._loss(pairs).where(real, 0.0).sum(), real.sum()

    def evaluate(self, model: SequenceScorer, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the sums of loss, reward margin and correctly ordered pairs, and their number."""
        import torch

        pairs, real = self._pairs(model, batch)
        margin = self._margin(pairs)
        values = torch.stack([self._loss(pairs), margin, (margin > 0).to(margin.dtype)])
        return values.where(real, 0.0).sum(1), real.sum()

    def reference(self, model: SequenceScorer, batch: Batch) -> Tensor:
        """Return the log-probabilities of both answers, [pairs, 2]."""
        return _scores(model, batch)[0]

    def _pairs(self, model: SequenceScorer, batch: Batch) -> tuple[Pairs, Tensor]:
        """Return the pairs of a batch, and which of them are not there to fill it up."""
        import torch

        scores, counts = _scores(model, batch)
        means = scores / counts.clamp(min=1)
        lead = torch.zeros_like(scores[:, 0])
        if self.needs_reference:
            reference = batch[REFERENCE].view(torch.float32)
            lead = reference[:, 0] - reference[:, 1]
        pairs = Pairs(
            chosen=scores[:, 0],
            rejected=scores[:, 1],
            mean_chosen=means[:, 0],
            mean_rejected=means[:, 1],
            lead=lead,
        )
        return pairs, counts.gt(0).all(1)


def _scores(model: SequenceScorer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and token counts of the answers, [pairs, 2], of one forward pass."""
    flat = {name: batch[name].flatten(0, 1) for name in ("inputs", "targets")}
    scores, counts = model.sequence_log_probs(flat)
    return scores.view(-1, 2), counts.view(-1, 2)


def _losses(options: Any) -> tuple[Callable[[Pairs], Tensor], Callable[[Pairs], Tensor]]:
    """Return what computes the loss of each pair, and by how much its chosen answer's reward leads.

    The reward of an answer is what the paper of the loss calls so; for ORPO, which has none, its
    weighted mean log-probability.
    """
    from torch.nn.functional import logsigmoid

    weight = options.odds_weight
    default = 2.0 if options.loss == "simpo" else 0.1
    beta = default if options.beta is None else options.beta

    def sigmoid(pairs: Pairs) -> Tensor:
        scaled, wrong = beta * pairs.logits, options.label_smoothing
        return -(1 - wrong) * logsigmoid(scaled) - wrong * logsigmoid(-scaled)

    def ipo(pairs: Pairs) -> Tensor:
        return (pairs.logits - 1 / (2 * beta)).square()

    def compared(pairs: Pairs) -> Tensor:
        return beta * pairs.logits

    def simpo_margin(pairs: Pairs) -> Tensor:
        return beta * (pairs.mean_chosen - pairs.mean_rejected)

    def simpo(pairs: Pairs) -> Tensor:
        return -logsigmoid(simpo_margin(pairs) - options.gamma)

    def orpo(pairs: Pairs) -> Tensor:
        ratio = _log_odds(pairs.mean_chosen) - _log_odds(pairs.mean_rejected)
        return -pairs.mean_chosen - weight * logsigmoid(ratio)

    def orpo_margin(pairs: Pairs) -> Tensor:
        return weight * (pairs.mean_chosen - pairs.mean_rejected)

    return {
        "sigmoid": (sigmoid, compared),
        "ipo": (ipo, compared),
        "simpo": (simpo, simpo_margin),
        "orpo": (orpo, orpo_margin),
    }[options.loss]


def _log_odds(log_probability: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of log p, which is below 0."""
    import torch

    certain = -torch.finfo(log_probability.dtype).eps  # of p = 1 the odds are infinite
    below = log_probability.clamp(max=certain)
    return below - torch.log(-torch.expm1(below))
