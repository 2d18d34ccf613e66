"""Files of prompts with two answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge import RunContext
from llmforge.interfaces import ExampleLayout, Message, Preference
from llmforge_plugins.data._conversations import BadRow, text_of, turns
from llmforge_plugins.data._example_files import ExampleFiles, example_files

SAMPLE = Path(__file__).parent / "sample" / "preferences.jsonl"

_ANSWERS = ("chosen", "rejected")
_ASSISTANT = "assistant"
_TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):")
"""What turns begin with where a conversation is one text, as in Anthropic's hh-rlhf."""


class PreferenceData(ExampleFiles):
    """Pairs of answers of files; see :class:`ExampleFiles`."""

    component = "preference"

    @property
    def form(self) -> str:
        """What the rows are."""
        return "pairs of answers"

    def make_layout(self) -> ExampleLayout:
        """Return how conversations become rows of tokens: the answers alone are learned."""
        return ExampleLayout(
            template=self._options.template,
            train_on="last_response",
            truncate=self._options.truncate,
            packing=False,
        )

    def convert(self, row: Any, place: str, split: str) -> Preference:
        """Return a row as a pair."""
        del split
        return preference(row, source=place, columns=self._options.columns)

    def text(self, example: Preference) -> str:
        """Return what is said, the prompt once."""
        said = (*example.prompt, example.chosen, example.rejected)
        return "\n".join(message.content for message in said)

    def rules(self) -> list[Any]:
        """Return nothing further."""
        return []


def preference(row: Mapping[str, Any], *, source: str, columns: Mapping[str, str]) -> Preference:
    """Return a row as a prompt with two answers.

    Raises:
        BadRow: something it must have is missing, empty, of another type or by another role, or
            the answers are equal.
    """
    names = {name: columns.get(name, name) for name in ("prompt", *_ANSWERS, "system")}
    for name in _ANSWERS:
        if row.get(names[name]) is None:
            raise BadRow(
                f"it has no column '{names[name]}'",
                remedy=f'name the column: columns = {{ {name} = "…" }}',
            )
    prompt = row.get(names["prompt"])
    given = None if prompt is None else _messages(prompt, names["prompt"], role="user")
    both = [_messages(row[names[name]], names[name], role=_ASSISTANT) for name in _ANSWERS]
    if any(len(said) > 1 for said in both):
        said = _shared(both, names)
        if given is not None and given not in (said, said[-1:]):
            raise BadRow(f"'{names['prompt']}' is not what '{names['chosen']}' begins with")
    elif given is None:
        raise BadRow(
            f"it has no column '{names['prompt']}'",
            remedy='name the column: columns = { prompt = "…" }',
        )
    else:
        said = given
    system = text_of(row.get(names["system"]), names["system"], required=False)
    if system and said[0].role != "system":
        said = [Message(role="system", content=system), *said]
    if said[-1].role in (_ASSISTANT, "system"):
        raise BadRow(f"the prompt ends with a message of the {said[-1].role}, not of a user")
    chosen, rejected = (messages[-1] for messages in both)
    for name, answer in zip(_ANSWERS, (chosen, rejected), strict=True):
        if answer.role != _ASSISTANT:
            raise BadRow(
                f"'{names[name]}' ends with a message of the {answer.role}, not of the {_ASSISTANT}"
            )
    if (chosen.content.strip(), chosen.fields) == (rejected.content.strip(), rejected.fields):
        raise BadRow(
            f"'{names['chosen']}' and '{names['rejected']}' are equal, so nothing is preferred"
        )
    return Preference(prompt=tuple(said), chosen=chosen, rejected=rejected, source=source)


def _shared(both: list[list[Message]], names: Mapping[str, str]) -> list[Message]:
    """Return what two whole conversations have in common: all but the last message.

    Raises:
        BadRow: they differ earlier.
    """
    first, second = both
    for number, (one, other) in enumerate(zip(first[:-1], second[:-1], strict=False), 1):
        if one != other:
            raise BadRow(
                f"'{names['chosen']}' and '{names['rejected']}' differ in message {number}, before "
                "the last one: only the last answers may"
            )
    if len(first) != len(second):
        raise BadRow(
            f"'{names['chosen']}' has {len(first)} messages and '{names['rejected']}' "
            f"{len(second)}: only the last answers may differ"
        )
    return first[:-1]


def _messages(value: Any, column: str, *, role: str) -> list[Message]:
    """Return a text, one message or a list of them as messages; a plain text is by ``role``."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        try:
            return turns(value, column)
        except BadRow as error:
            named = f"'{column}'" in error.message
            text = error.message if named else f"in '{column}', {error.message}"
            raise BadRow(text, remedy=error.remedy) from None
    text = text_of(value, column)
    marks = list(_TRANSCRIPT.finditer(text)) if role == _ASSISTANT else []
    if not marks or marks[0].start() != 0:
        return [Message(role=role, content=text)]
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [
        Message(
            role="user" if mark[1] == "Human" else _ASSISTANT,
            content=text_of(text[mark.end() : end].strip(), column),
        )
        for mark, end in zip(marks, ends, strict=True)
    ]


def build(options: Any, run: RunContext) -> PreferenceData:
    """Find the files and look at every row.

    Raises:
        DataError: a pattern matches nothing, or a file or row cannot be used.
    """
    if options.sample:
        options = options.model_copy(update={"path": str(SAMPLE)})
    return PreferenceData(example_files(options, "preference", run), options, run)
