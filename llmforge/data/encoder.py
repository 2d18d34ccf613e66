"""Making tokens of the parts of examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmforge.data.chat_template import ChatTemplate
from llmforge.data.supervision import Supervision
from llmforge.errors import DataError
from llmforge.interfaces import ChatTokenizer, ExampleLayout, Message, Row


class Encoder:
    """Implements :class:`llmforge.interfaces.ExampleEncoder`.

    Args:
        template: how conversations are laid out; None where there are none.
        tokenizer: what turns text into ids.
        vocab_size: number of ids.
        eos_id: the end-of-text token; None when there is none.
        layout: what is learned, and what becomes of long examples.
        context: tokens that a model reads of a row, at most.
        labels: names of the labels, where the data has any.
    """

    def __init__(
        self,
        template: ChatTemplate | None,
        tokenizer: ChatTokenizer,
        *,
        vocab_size: int,
        eos_id: int | None,
        layout: ExampleLayout,
        context: int,
        labels: Sequence[str] = (),
    ) -> None:
        self.context = context
        self.labels = labels
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        self._tokenizer = tokenizer
        self._truncate = layout.truncate
        self._supervision = (
            None if template is None else Supervision(template, tokenizer, train_on=layout.train_on)
        )

    def conversation(self, messages: Sequence[Message]) -> Row:
        """Return a conversation laid out by the template."""
        if self._supervision is None:
            raise DataError("it is a conversation, and nothing says how those are laid out")
        return self._supervision.apply(messages)

    def text(self, text: str, pair: str | None = None) -> tuple[int, ...]:
        """Return the ids of a text, or of two, with the special tokens a model reads it with."""
        return tuple(self._tokenizer.encode_whole(text, pair))

    @property
    def mask_id(self) -> int:
        """Return the token that stands for one that is hidden."""
        token = self._tokenizer.mask_token
        if token is None:
            raise DataError(
                "the tokenizer has no token that stands for a hidden one",
                remedy="use that of a model that was trained with masks, such as codebert-base",
            )
        return self._tokenizer.special_tokens[token]

    @property
    def special_ids(self) -> frozenset[int]:
        """Return the ids of all special tokens."""
        return frozenset(self._tokenizer.special_tokens.values())

    def cut(self, row: Row, longest: int | None = None) -> Sequence[Row]:
        """Return what ``truncate`` makes of a row longer than ``longest`` tokens."""
        return list(_cut(row, longest or self.context + 1, self._truncate))


def _cut(row: Row, longest: int, rule: str) -> Iterator[Row]:
    length = len(row.ids)
    if length <= longest:
        yield row
    elif rule == "right":
        yield _part(row, 0, longest)
    elif rule == "left":
        yield _part(row, length - longest, length)
    elif rule == "split":
        # Neighbours share a token, so that each is a target once.
        for begin in range(0, length - 1, longest - 1):
            yield _part(row, begin, min(begin + longest, length))


def _part(row: Row, begin: int, end: int) -> Row:
    return Row(row.ids[begin:end], (False, *row.scored[begin + 1 : end]))
