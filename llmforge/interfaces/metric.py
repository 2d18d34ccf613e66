"""What a ``metric`` component hands to the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

Needs = Literal["answers", "labels"]
"""What a metric compares: generated texts with reference texts, or predicted with true labels."""


class Metric(Protocol):
    """Measures the predictions of one evaluation; a new one is built for the next.

    What it keeps does not grow with the number of predictions. Its value is that of the whole
    corpus, however it was divided into batches. The component says what it compares (``needs``),
    what its values are called (``measures``) and whether more or less of them is better
    (``direction``).
    """

    def update(self, predictions: Sequence[Any], references: Sequence[Any]) -> None:
        """Take a batch: the prediction and the reference of each row, texts or labels."""
        ...

    def compute(self) -> Mapping[str, float]:
        """Return the values of all rows so far, by the names in ``measures``.

        Called after at least one row. A value that is not defined for them is left out.
        """
        ...
