"""What a model is asked to answer, and what it should say: the end of a row of examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmforge.data.example_rows import ExampleSplit
from llmforge.interfaces import ChatTokenizer, Tokenizer


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt with the answer of the data.

    Attributes:
        prompt: all tokens before the last answer.
        reference: text of the last answer, without the token that ends the turn.
        end_id: that token; None where the answer was cut off.
    """

    prompt: tuple[int, ...]
    reference: str
    end_id: int | None


def questions(split: ExampleSplit, tokenizer: Tokenizer, *, rows: int) -> Iterator[Question]:
    """Yield the question of each row, in the order of the rows.

    A row that is nothing but an answer, since what came before was cut off, has none.

    Args:
        split: rows of which answers are scored.
        tokenizer: of the rows.
        rows: questions to yield at most; 0 yields all.
    """
    special: frozenset[int] = frozenset()
    if isinstance(tokenizer, ChatTokenizer):
        special = frozenset(tokenizer.special_tokens.values())
    found = 0
    for index in range(split.rows):
        ids, scored = split.row(index)
        begin, end = _last_answer(scored)
        if begin <= 1:
            continue
        answer = ids[begin:end].tolist()
        ends = answer[-1] in special
        yield Question(
            prompt=tuple(ids[:begin].tolist()),
            reference=tokenizer.decode(answer[:-1] if ends else answer).strip(),
            end_id=answer[-1] if ends else None,
        )
        found += 1
        if found == rows:
            return


def _last_answer(scored: np.ndarray) -> tuple[int, int]:
    """Return where the last run of scored tokens begins and ends; every row has one."""
    places = np.flatnonzero(scored)
    breaks = np.flatnonzero(np.diff(places) > 1)
    return int(places[breaks[-1] + 1 if len(breaks) else 0]), int(places[-1]) + 1
