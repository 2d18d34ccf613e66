"""``exact_match``: the share of answers that are the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import llmforge
from llmforge import SAFE, Component, hookimpl


class ExactMatch(Component, kind="metric"):
    """The share of answers, from 0 to 1, that are the reference word for word.

    How words are separated does not count: runs of white space are as good as one space.
    """

    class Options(llmforge.Options):
        """Options of ``[metric.exact_match]``."""

        ignore_case: Annotated[bool, SAFE] = False
        """Whether case does not count."""

    @hookimpl
    def forge_build_metric(self) -> MatchingShare:
        """Build the metric."""
        return MatchingShare(self.options)


class MatchingShare:
    """Counts answers that match.

    Args:
        options: of the component.
    """

    def __init__(self, options: Any) -> None:
        self._ignore_case = options.ignore_case
        self._matches = self._count = 0

    def update(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Count a batch."""
        for prediction, reference in zip(predictions, references, strict=True):
            self._matches += self._plain(prediction) == self._plain(reference)
            self._count += 1

    def compute(self) -> Mapping[str, float]:
        """Return the share."""
        return {"exact_match": self._matches / self._count}

    def _plain(self, text: str) -> str:
        words = " ".join(text.split())
        return words.casefold() if self._ignore_case else words
