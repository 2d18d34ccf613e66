"""Rows of texts, and batches in which some of their tokens are hidden."""

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
    Preference,
    Row,
    padded_rows,
)

_HIDDEN, _RANDOM = 0.8, 0.1
"""Shares of the chosen tokens that become the mask token, and any token."""


class HiddenTokens(Objective):
    """A row is a text; scored are the tokens that may be hidden: all but the special ones.

    Args:
        share: of those, how many are.
    """

    form = "mlm"
    packs = False

    def __init__(self, *, share: float) -> None:
        self._share = share
        self._mask_id = 0
        self._ordinary: NDArray[np.int64] = np.zeros(0, np.int64)

    def open(self, encoder: ExampleEncoder) -> None:
        """Learn which token hides others, and which may stand in their place."""
        self._mask_id = encoder.mask_id
        every = np.arange(encoder.vocab_size)
        self._ordinary = np.setdiff1d(every, list(encoder.special_ids))

    def rows(self, example: Example, encoder: ExampleEncoder) -> tuple[int, Sequence[Row]]:
        """Return the tokens of the text; of one that is cut each part is a text of its own."""
        if isinstance(example, Conversation):
            text = "\n\n".join(message.content for message in example.messages)
            ids = encoder.text(text)
        elif isinstance(example, Preference):
            raise DataError("it is a pair of answers", remedy='objective.name = "dpo"')
        else:
            ids = encoder.text(example.text, example.pair)
        special = encoder.special_ids
        head = next((place for place, one in enumerate(ids) if one not in special), len(ids))
        if head == len(ids):
            raise DataError("it has no text")
        tail = next(place for place, one in enumerate(reversed(ids)) if one not in special)
        body = ids[head : len(ids) - tail]
        begin, end = ids[:head], ids[len(ids) - tail :]
        room = encoder.context - len(begin) - len(end)
        parts = encoder.cut(Row(body, (True,) * len(body)), room)
        return len(ids), [_row((*begin, *part.ids, *end), special) for part in parts]

    def targets(self, scored: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many tokens are hidden of rows that have so many which may be."""
        found: NDArray[np.int64] = np.maximum(np.rint(scored * self._share), scored > 0)
        return found.astype(np.int64)

    def batch(
        self, rows: Sequence[tuple[Any, Any]], *, context: int, seeds: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        """Return texts with hidden tokens, padded to the longest, where those are, and which."""
        lengths = [len(ids) for ids, _ in rows]
        inputs = padded_rows([ids for ids, _ in rows], fill=0, context=context)
        counts = self.targets(np.asarray([int(scored.sum()) for _, scored in rows]))
        places = np.zeros((len(rows), int(counts.max())), np.int64)
        targets = np.full(places.shape, IGNORE_INDEX, np.int64)
        for place, ((ids, scored), seed) in enumerate(zip(rows, seeds, strict=True)):
            draw = np.random.Generator(np.random.Philox(key=seed))
            count = int(counts[place])
            chosen = np.sort(draw.permutation(np.flatnonzero(scored))[:count])
            places[place, :count] = chosen
            targets[place, :count] = ids[chosen]
            fate = draw.random(count)
            stand_in = draw.choice(self._ordinary, count)
            masked = np.where(fate < _HIDDEN, self._mask_id, ids[chosen])
            drawn = (fate >= _HIDDEN) & (fate < _HIDDEN + _RANDOM)
            inputs[place, chosen] = np.where(drawn, stand_in, masked)
        return {
            "inputs": inputs,
            "lengths": np.asarray(lengths, np.int64),
            "places": places,
            "targets": targets,
        }


def _row(ids: tuple[int, ...], special: frozenset[int]) -> Row:
    return Row(ids, tuple(one not in special for one in ids))
