"""Corpus scores by sacrebleu, from counts that are added up batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sacrebleu.metrics import BLEU, CHRF


class CorpusBleu:
    """BLEU; keeps the matches and n-grams of each order, and the lengths.

    Args:
        options: of the component.
    """

    def __init__(self, options: Any) -> None:
        self._order = options.max_order
        self._score = BLEU(
            tokenize=options.tokenize, lowercase=options.lowercase, max_ngram_order=self._order
        )
        self._matches = [0] * self._order
        self._ngrams = [0] * self._order
        self._length = self._reference_length = 0

    def update(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Add the counts of a batch."""
        found = self._score.corpus_score(list(predictions), [list(references)])
        self._matches = [sum(pair) for pair in zip(self._matches, found.counts, strict=True)]
        self._ngrams = [sum(pair) for pair in zip(self._ngrams, found.totals, strict=True)]
        self._length += found.sys_len
        self._reference_length += found.ref_len

    def compute(self) -> Mapping[str, float]:
        """Return the score of the corpus."""
        score = BLEU.compute_bleu(
            self._matches,
            self._ngrams,
            self._length,
            self._reference_length,
            smooth_method="exp",
            max_ngram_order=self._order,
        )
        return {"bleu": score.score}


class CorpusChrf:
    """chrF; keeps sacrebleu's own statistics, which it adds up over a corpus itself.

    Args:
        options: of the component.
    """

    def __init__(self, options: Any) -> None:
        self._score = CHRF(
            char_order=options.char_order,
            word_order=options.word_order,
            beta=options.beta,
            lowercase=options.lowercase,
        )
        self._sums: list[int] = []

    def update(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Add the statistics of a batch."""
        found = self._score._extract_corpus_statistics(list(predictions), [list(references)])
        rows = [self._sums, *found] if self._sums else found
        self._sums = [sum(column) for column in zip(*rows, strict=True)]

    def compute(self) -> Mapping[str, float]:
        """Return the score of the corpus."""
        return {"chrf": self._score._compute_score_from_stats(self._sums).score}
