"""ROUGE as a mean over answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer


class MeanRouge:
    """Adds up the F-measures of each answer.

    Args:
        options: of the component.
    """

    def __init__(self, options: Any) -> None:
        # Left to choose this tokenizer by itself, it would tell a log, and so configure logging.
        self._scorer = RougeScorer(options.types, tokenizer=DefaultTokenizer(options.stemmer))
        self._sums = dict.fromkeys(options.types, 0.0)
        self._count = 0

    def update(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Add the scores of a batch."""
        for prediction, reference in zip(predictions, references, strict=True):
            for name, score in self._scorer.score(reference, prediction).items():
                self._sums[name] += score.fmeasure
            self._count += 1

    def compute(self) -> Mapping[str, float]:
        """Return the means."""
        return {name: total / self._count for name, total in self._sums.items()}
