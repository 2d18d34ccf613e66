"""What a ``tokenizer`` component hands to the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Tokenizer(Protocol):
    """Turns text into token ids and back.

    Attributes:
        vocab_size: number of ids; every id is below it.
        eos_id: the end-of-text token, put after each document; None when there is none.
        fingerprint: a hash of the vocabulary and rules.
    """

    vocab_size: int
    eos_id: int | None
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without any special token."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, using several cores where that helps."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; special tokens become nothing."""
        ...

    def save(self, directory: Path) -> None:
        """Write everything :func:`forge_load_tokenizer` needs as files in ``directory``."""
        ...


@runtime_checkable
class ArrayTokenizer(Protocol):
    """A tokenizer that encodes much text without a Python number for every id."""

    def encode_arrays(self, texts: Sequence[str]) -> Sequence[NDArray[Any]]:
        """Return the ids of each text as an array of whole numbers.

        They are the ids of :meth:`Tokenizer.encode_batch`. Several threads call it at once, one for
        each core: what lets go of Python's lock uses them all.
        """
        ...


@runtime_checkable
class ChatTokenizer(Protocol):
    """A tokenizer that can be used with chat templates.

    Attributes:
        special_tokens: id by text of every special token.
        eos_token: text of the end-of-text token; None when there is none.
        bos_token: text of the token that begins texts; None when there is none.
        chat_template: the tokenizer's own template in Jinja; None when it has none.
        mask_token: text of the token that stands for a hidden one; None when there is none.
    """

    special_tokens: Mapping[str, int]
    eos_token: str | None
    bos_token: str | None
    chat_template: str | None
    mask_token: str | None

    def encode_spans(
        self, text: str, *, special: bool
    ) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        """Return the ids of ``text`` and the characters [begin, end) of each.

        Args:
            text: what is encoded.
            special: whether the text of a special token becomes that token.
        """
        ...

    def encode_whole(self, text: str, pair: str | None = None) -> Sequence[int]:
        """Return the ids of a text, or of two, with the special tokens a model reads it with.

        For example ``<s> text </s>`` of RoBERTa, ``text </s>`` of T5; those of the tokenizer's own
        rules, none where it has no such rules.
        """
        ...
