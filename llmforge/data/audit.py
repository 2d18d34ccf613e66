"""Looking at rows of examples before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmforge.data.example_rows import ExampleSplit

_LITTLE = 0.01
"""A split of which a smaller share is learned is worth a warning."""

_BINS = 8


@dataclass(frozen=True, kw_only=True)
class SplitAudit:
    """What there is to know of the rows of a split.

    Attributes:
        share: of the tokens, those that are learned.
        lengths: (longest of the bin in tokens, rows) from short to long.
        least: index of the row of which the smallest share is learned.
        tally: what became of the examples.
    """

    share: float
    lengths: tuple[tuple[int, int], ...]
    least: int
    tally: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "tally": dict(self.tally)}


def audit(splits: Mapping[str, ExampleSplit]) -> dict[str, SplitAudit]:
    """Return what there is to know of each split."""
    return {
        name: SplitAudit(
            share=int(split.learned.sum()) / max(1, split.tally.tokens),
            lengths=_histogram(split),
            least=int(np.argmin(split.learned / split.lengths)),
            tally=asdict(split.tally),
        )
        for name, split in splits.items()
    }


def audit_warnings(audits: Mapping[str, SplitAudit]) -> list[str]:
    """Return what is likely to be a mistake in the data or its template."""
    return [
        f"only {found.share:.2%} of the tokens of {name} are learned, the least in row "
        f"{found.least + 1}; 'forge data show RECIPE' shows what is"
        for name, found in audits.items()
        if found.share < _LITTLE
    ]


def _histogram(split: ExampleSplit) -> tuple[tuple[int, int], ...]:
    """Return rows by length in bins of equal width."""
    longest = int(split.lengths.max())
    width = max(1, -(-longest // _BINS))
    counts = np.bincount((split.lengths - 1) // width, minlength=_BINS)
    return tuple(((place + 1) * width, int(count)) for place, count in enumerate(counts))


def audit_lines(audits: Mapping[str, SplitAudit]) -> list[str]:
    """Return a line for each split, as the start of a run has it."""
    lines = []
    for name, found in audits.items():
        tally = found.tally
        parts = [
            f"{tally['examples']:,} examples",
            f"{tally['rows']:,} rows of {tally['tokens'] / max(1, tally['rows']):.0f} tokens",
            f"{found.share:.0%} learned",
        ]
        parts += [
            f"{tally[key]:,} {text}"
            for key, text in (
                ("truncated", "cut"),
                ("dropped", "too long"),
                ("unlearned", "without an answer"),
                ("duplicates", "duplicates"),
                ("overlap", "of them in train too"),
            )
            if tally[key]
        ]
        lines.append(f"{name}: {', '.join(parts)}")
    return lines
