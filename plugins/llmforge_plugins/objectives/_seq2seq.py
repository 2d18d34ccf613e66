"""Rows of a source and its target, and their batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmforge.errors import DataError
from llmforge.interfaces import (
    IGNORE_INDEX,
    Conversation,
    Example,
    ExampleEncoder,
    Objective,
    Row,
    padded_rows,
)


class SourceToTarget(Objective):
    """A row is the source's tokens and then the target's, which are scored.

    Args:
        prefix: put before every source.
        target_context: longest target in tokens.
    """

    form = "seq2seq"
    packs = False

    def __init__(self, *, prefix: str, target_context: int) -> None:
        self._prefix = prefix
        self._target_context = target_context
        self.key = (prefix, target_context)

    def rows(self, example: Example, encoder: ExampleEncoder) -> tuple[int, Sequence[Row]]:
        """Return the tokens of source and target, each with its special tokens."""
        if not isinstance(example, Conversation) or len(example.messages) < 2:
            raise DataError("it has no target", remedy="give source and target, or an answer")
        *said, answer = example.messages
        if answer.role != "assistant":
            raise DataError("its last message is not the assistant's, so there is no target")
        source = self._whole(encoder, "\n\n".join(message.content for message in said))
        target = encoder.text(answer.content)
        total = len(source) + len(target)
        sources = _cut(encoder, source, encoder.context)
        targets = _cut(encoder, target, self._target_context)
        if not sources or not targets:
            return total, []
        source, target = sources[0], targets[0]
        scored = (False,) * len(source) + (True,) * len(target)
        return total, [Row((*source, *target), scored)]

    def prompt(self, text: str, encoder: ExampleEncoder) -> Sequence[int]:
        """Return the tokens of a source."""
        cut = _cut(encoder, self._whole(encoder, text), encoder.context)
        return cut[0] if cut else self._whole(encoder, text)[-encoder.context :]

    def batch(
        self, rows: Sequence[tuple[Any, Any]], *, context: int, seeds: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        """Return sources with their lengths, and targets, each padded to the longest."""
        del seeds
        begins = [int(np.argmax(scored)) for _, scored in rows]
        sources = [ids[:begin] for (ids, _), begin in zip(rows, begins, strict=True)]
        targets = [ids[begin:] for (ids, _), begin in zip(rows, begins, strict=True)]
        return {
            "inputs": padded_rows(sources, fill=0, context=context),
            "lengths": np.asarray(begins, np.int64),
            "targets": padded_rows(targets, fill=IGNORE_INDEX, context=self._target_context),
        }

    def _whole(self, encoder: ExampleEncoder, text: str) -> tuple[int, ...]:
        return encoder.text(self._prefix + text)


def _cut(encoder: ExampleEncoder, ids: tuple[int, ...], longest: int) -> Sequence[tuple[int, ...]]:
    """Return what is used of a text: one that is cut keeps the special token at its end."""
    if len(ids) <= longest:
        return [ids]
    closed = ids[-1] in encoder.special_ids
    body, end = (ids[:-1], ids[-1:]) if closed else (ids, ())
    row = Row(body, (True,) * len(body))
    return [(*part.ids, *end) for part in encoder.cut(row, longest - len(end))]
