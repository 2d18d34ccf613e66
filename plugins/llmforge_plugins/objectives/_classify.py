"""Rows of a text and its label, and their batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmforge.errors import DataError
from llmforge.interfaces import Example, ExampleEncoder, Objective, Row, TextExample, padded_rows


class LabelOfText(Objective):
    """A row is the text's tokens and then the number of its label, which alone is scored."""

    form = "classify"
    packs = False
    ends_in_label = True

    def rows(self, example: Example, encoder: ExampleEncoder) -> tuple[int, Sequence[Row]]:
        """Return the tokens of the text with its label."""
        if not isinstance(example, TextExample) or example.label is None:
            raise DataError("it has no label", remedy="use the data labelled, with a label column")
        ids = encoder.text(example.text, example.pair)
        row = Row((*ids, example.label), (*(False for _ in ids), True))
        if len(ids) <= encoder.context:
            return len(row.ids), [row]
        closed = ids[-1] in encoder.special_ids
        body, end = (ids[:-1], ids[-1:]) if closed else (ids, ())
        parts = encoder.cut(Row(body, (False,) * len(body)), encoder.context - len(end))
        rows = [Row((*part.ids, *end, example.label), _last(part, end)) for part in parts]
        return len(row.ids), rows

    def batch(
        self, rows: Sequence[tuple[Any, Any]], *, context: int, seeds: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        """Return texts, padded to the longest, with their lengths and labels."""
        del seeds
        return {
            "inputs": padded_rows([ids[:-1] for ids, _ in rows], fill=0, context=context),
            "lengths": np.asarray([len(ids) - 1 for ids, _ in rows], np.int64),
            "targets": np.asarray([ids[-1] for ids, _ in rows], np.int64),
        }


def _last(part: Row, end: tuple[int, ...]) -> tuple[bool, ...]:
    return (*(False for _ in part.ids), *(False for _ in end), True)
