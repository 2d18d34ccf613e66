"""What a ``data`` component hands to the core when its data is not running text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user``, ``assistant`` or another that the template knows.
        content: what was said, as it is.
        fields: further fields for the template, such as ``tool_calls`` or ``name``.
    """

    role: str
    content: str
    fields: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages in order; a prompt with its response is one of two.

    Attributes:
        messages: at least one, of which an assistant's are learned.
        source: where it is from, for messages: ``alpaca.jsonl:17``.
    """

    messages: tuple[Message, ...]
    source: str


@dataclass(frozen=True, kw_only=True)
class TextExample:
    """A text, perhaps with a second one and a label.

    Attributes:
        text: as it is.
        source: where it is from, for messages: ``reviews.csv:17``.
        pair: a text to read with it.
        label: number of its label among the data's ``labels``; None when it has none.
    """

    text: str
    source: str
    pair: str | None = None
    label: int | None = None


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A prompt with two answers, of which the first is the better one.

    Attributes:
        prompt: the messages before the answers, at least one.
        chosen: the better answer, an assistant's.
        rejected: the other one.
        source: where it is from, for messages: ``preferences.jsonl:17``.
    """

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    source: str


Example = Conversation | TextExample | Preference


@dataclass(frozen=True)
class Row:
    """An example as tokens.

    Attributes:
        ids: the tokens.
        scored: whether each is learned, or what an objective makes of it: a number below 256.
    """

    ids: tuple[int, ...]
    scored: tuple[int, ...]

    @property
    def targets(self) -> int:
        """Return how many tokens are scored."""
        return sum(self.scored)


@dataclass(frozen=True, kw_only=True)
class ExampleLayout:
    """How examples become rows of tokens.

    Attributes:
        template: ``auto`` (the tokenizer's own, else ``alpaca``), ``chatml``, ``alpaca``,
            ``plain``, or the path of a Jinja file; None for examples that are not conversations.
        train_on: what is learned: ``responses`` of the assistant, the ``last_response`` or
            ``all``.
        truncate: what becomes of an example longer than the context: ``drop``, ``left`` or
            ``right`` (the side that is cut off), or ``split``.
        packing: ``auto`` puts several examples into one row of the context when the model keeps
            them apart (its component says ``supports = {"segments"}``); False never does.
    """

    template: str | None = "auto"
    train_on: Literal["responses", "last_response", "all"] = "responses"
    truncate: Literal["drop", "left", "right", "split"] = "drop"
    packing: Literal["auto", False] = "auto"


@runtime_checkable
class ExampleData(Protocol):
    """Examples in splits; the core renders, tokenises, masks and orders them.

    Attributes:
        splits: names among ``train``, ``validation`` and ``test``; ``train`` is required.
        fingerprint: a hash of the contents.
        description: one line for the log.
        layout: how they become rows of tokens.

    For tokenizers that are trained on the data it has the ``iter_text`` of
    :class:`~llmforge.interfaces.data.Data` too. Data whose texts have labels has their names as
    ``labels``, in the order of their numbers.
    """

    splits: Sequence[str]
    fingerprint: str
    description: str
    layout: ExampleLayout

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of ``split`` in a fixed order.

        Raises:
            DataError: a file or a row in it cannot be used; the message names both.
        """
        ...
