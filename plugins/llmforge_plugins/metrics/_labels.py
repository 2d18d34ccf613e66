"""Scores of predicted labels, from how often each pair of labels occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score


class _LabelPairs:
    """Counts pairs of predicted and true label; there are never more than labels squared.

    Args:
        options: of the component.
    """

    def __init__(self, options: Any) -> None:
        self._options = options
        self._counts: Counter[tuple[int, int]] = Counter()

    def update(self, predictions: Sequence[int], references: Sequence[int]) -> None:
        """Count a batch."""
        pairs = zip(predictions, references, strict=True)
        self._counts.update((int(predicted), int(true)) for predicted, true in pairs)

    def _columns(self) -> dict[str, list[int]]:
        """Return each pair once with how often it occurs, as scikit-learn calls the three."""
        predicted, true = zip(*self._counts, strict=True)
        return {
            "y_true": list(true),
            "y_pred": list(predicted),
            "sample_weight": list(self._counts.values()),
        }


class LabelAccuracy(_LabelPairs):
    """Accuracy."""

    def compute(self) -> Mapping[str, float]:
        """Return it."""
        score = balanced_accuracy_score if self._options.balanced else accuracy_score
        return {"accuracy": float(score(**self._columns()))}


class LabelF1(_LabelPairs):
    """F1; a label that is neither predicted nor true counts as 0."""

    def compute(self) -> Mapping[str, float]:
        """Return it."""
        value = f1_score(
            **self._columns(),
            average=self._options.average,
            pos_label=self._options.positive,
            zero_division=0,
        )
        return {"f1": float(value)}
