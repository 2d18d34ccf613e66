"""``rouge``: overlap with the reference, by rouge-score."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

import llmforge
from llmforge import SAFE, Component, hookimpl

if TYPE_CHECKING:
    from llmforge.interfaces import Metric

_TYPE = re.compile(r"rouge([1-9]|L|Lsum)")


class Rouge(Component, kind="metric"):
    """ROUGE F-measures from 0 to 1, the mean over all answers, as rouge-score computes them.

    Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
    """

    requires = ("rouge_score",)

    class Options(llmforge.Options):
        """Options of ``[metric.rouge]``."""

        types: Annotated[list[str], SAFE, Field(min_length=1)] = Field(
            default_factory=lambda: ["rougeL"]
        )
        """Which: ``rouge1`` to ``rouge9`` (n-grams of words), ``rougeL`` (longest common
        subsequence) and ``rougeLsum`` (the same line by line)."""
        stemmer: Annotated[bool, SAFE] = False
        """Whether English words are reduced to their stems before they are compared."""

        @field_validator("types")
        @classmethod
        def _known_types(cls, value: list[str]) -> list[str]:
            for name in value:
                if not _TYPE.fullmatch(name):
                    raise ValueError(f"'{name}' is none of rouge1 to rouge9, rougeL and rougeLsum")
            if len(set(value)) < len(value):
                raise ValueError("a type is listed twice")
            return value

    @property
    def measures(self) -> tuple[str, ...]:
        """Return the types."""
        return tuple(self.options.types)

    @hookimpl
    def forge_build_metric(self) -> Metric:
        """Build the metric."""
        from llmforge_plugins.metrics._rouge import MeanRouge

        return MeanRouge(self.options)
