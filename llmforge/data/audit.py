"""Looking at rows of examples before anything is trained on them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmforge.data.example_rows import ExampleSplit
from llmforge.interfaces import Tokenizer

_LITTLE = 0.01
"""A split of which a smaller share is learned is worth a warning."""

_BINS = 8

_LIKE_SPECIAL = re.compile(
    r"<\|\w{1,40}\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>|<pad>|\[(?:CLS|SEP|PAD)\]"
)
"""What templates of well-known models write where they mean one special token."""

_UNKNOWN = ("<unk>", "[UNK]", "<|unk|>")
_SAMPLED = 200
"""Rows whose text is looked at."""


@dataclass(frozen=True, kw_only=True)
class Spelled:
    """Text that looks like a special token and is none: it is read as many small ones.

    Attributes:
        text: such as ``<|im_start|>``.
        rows: that have it, of those that were looked at.
    """

    text: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class SplitAudit:
    """What there is to know of the rows of a split.

    Attributes:
        share: of the tokens, those that are learned.
        lengths: (longest of the bin in tokens, rows) from short to long.
        least: index of the row of which the smallest share is learned.
        tally: what became of the examples.
        sampled: rows whose text was looked at.
        spelled: what looked like special tokens there, the most frequent first.
        unknown: tokens that stand for text the tokenizer has none for.
    """

    share: float
    lengths: tuple[tuple[int, int], ...]
    least: int
    tally: Mapping[str, int]
    sampled: int
    spelled: tuple[Spelled, ...]
    unknown: int

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "tally": dict(self.tally)}


def audit(splits: Mapping[str, ExampleSplit], tokenizer: Tokenizer) -> dict[str, SplitAudit]:
    """Return what there is to know of each split."""
    return {
        name: SplitAudit(
            share=int(split.learned.sum()) / max(1, split.tally.tokens),
            lengths=_histogram(split),
            least=int(np.argmin(split.learned / split.lengths)),
            tally=asdict(split.tally),
            sampled=min(_SAMPLED, split.rows),
            spelled=_spelled(split, tokenizer),
            unknown=_unknown(split, tokenizer),
        )
        for name, split in splits.items()
    }


def audit_warnings(audits: Mapping[str, SplitAudit]) -> list[str]:
    """Return what is likely to be a mistake in the data or its template."""
    warnings = [
        f"only {found.share:.2%} of the tokens of {name} are learned, the least in row "
        f"{found.least + 1}; 'forge data show RECIPE' shows what is"
        for name, found in audits.items()
        if found.share < _LITTLE
    ]
    for name, found in audits.items():
        often = [item.text for item in found.spelled if 2 * item.rows >= found.sampled]
        if often:
            what = "special tokens" if len(often) > 1 else "special token"
            warnings.append(
                f"{', '.join(often)} in {name}: no {what} of this tokenizer, so read letter by "
                "letter; choose a template that fits it"
            )
        if found.unknown > _LITTLE * found.tally["tokens"]:
            warnings.append(
                f"{found.unknown:,} of {found.tally['tokens']:,} tokens of {name} are unknown to "
                "the tokenizer"
            )
    return warnings


def _histogram(split: ExampleSplit) -> tuple[tuple[int, int], ...]:
    """Return rows by length in bins of equal width."""
    longest = int(split.lengths.max())
    width = max(1, -(-longest // _BINS))
    counts = np.bincount((split.lengths - 1) // width, minlength=_BINS)
    return tuple(((place + 1) * width, int(count)) for place, count in enumerate(counts))


def _spelled(split: ExampleSplit, tokenizer: Tokenizer) -> tuple[Spelled, ...]:
    """Return what looks like special tokens in rows spread over the split, and is plain text."""
    known = getattr(tokenizer, "special_tokens", {})
    rows = np.linspace(0, split.rows - 1, min(_SAMPLED, split.rows)).astype(np.int64)
    counts: Counter[str] = Counter()
    for row in rows.tolist():
        ids = split.row(row)[0].tolist()
        if split.objective.ends_in_label:
            ids = ids[:-1]
        text = "\0".join(map(tokenizer.decode, _between(ids, frozenset(known.values()))))
        counts.update(set(_LIKE_SPECIAL.findall(text)) - set(known))
    return tuple(Spelled(text=text, rows=count) for text, count in counts.most_common())


def _between(ids: list[int], special: frozenset[int]) -> Iterator[list[int]]:
    """Yield the tokens that stand between special ones."""
    run: list[int] = []
    for token in ids:
        if token in special:
            yield run
            run = []
        else:
            run.append(token)
    yield run


def _unknown(split: ExampleSplit, tokenizer: Tokenizer) -> int:
    known = getattr(tokenizer, "special_tokens", {})
    ids = [known[text] for text in _UNKNOWN if text in known]
    return sum(int(np.count_nonzero(split.ids == token)) for token in ids)


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
