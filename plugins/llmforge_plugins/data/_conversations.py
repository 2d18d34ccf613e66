"""Rows of instruction data as conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmforge.errors import DataError
from llmforge.interfaces import Conversation, Message

_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
COLUMNS = {
    "alpaca": ("instruction", "input", "output", "system"),
    "sharegpt": ("conversations", "system"),
    "messages": ("messages",),
    "prompt": ("prompt", "completion", "system"),
    "source": ("source", "target"),
}
"""The columns that each format knows; the first ones are required."""

_REQUIRED = {
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "messages": ("messages",),
    "prompt": ("prompt", "completion"),
    "source": ("source", "target"),
}
INPUT_HEADING = "\n\n### Input:\n"
"""Stands between an Alpaca instruction and its input."""


class BadRow(DataError):
    """A row that cannot be used; the message says why, without its place."""


def find_format(row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Return the format that a row's columns show.

    Raises:
        BadRow: they show none.
    """
    for name in COLUMNS:
        if all(columns.get(column, column) in row for column in _REQUIRED[name]):
            return name
    raise BadRow(
        f"its columns ({', '.join(map(str, row)) or 'none'}) are those of no known format",
        remedy='name them: columns = { instruction = "…", output = "…" }; the formats are '
        + "; ".join(f"{name}: {', '.join(COLUMNS[name])}" for name in COLUMNS),
    )


def conversation(
    row: Mapping[str, Any], *, source: str, layout: str, columns: Mapping[str, str]
) -> Conversation:
    """Return a row as a conversation.

    Raises:
        BadRow: something it must have is missing, empty or of another type.
    """
    found = {name: row.get(columns.get(name, name)) for name in COLUMNS[layout]}
    for name in _REQUIRED[layout]:
        column = columns.get(name, name)
        if column not in row:
            raise BadRow(f"it has no column '{column}'")
    if layout in ("sharegpt", "messages"):
        messages = turns(found[COLUMNS[layout][0]], COLUMNS[layout][0])
    else:
        messages = _answered(found, layout)
    system = text_of(found.get("system"), "system", required=False)
    if system and messages[0].role != "system":
        messages = [Message(role="system", content=system), *messages]
    _require_answer(messages)
    return Conversation(messages=tuple(messages), source=source)


def _answered(found: Mapping[str, Any], layout: str) -> list[Message]:
    question, answer = _REQUIRED[layout]
    prompt = text_of(found[question], question)
    extra = text_of(found.get("input"), "input", required=False)
    if extra:
        prompt += f"{INPUT_HEADING}{extra}"
    return [
        Message(role="user", content=prompt),
        Message(role="assistant", content=text_of(found[answer], answer)),
    ]


def turns(found: Any, column: str) -> list[Message]:
    """Return a list of messages as such.

    Raises:
        BadRow: it is none, or a message in it cannot be used.
    """
    if isinstance(found, str):
        raise BadRow(
            f"'{column}' is a text, not a list of messages",
            remedy="if it is JSON inside of JSON, decode it once more",
        )
    if not isinstance(found, list) or not found:
        raise BadRow(f"'{column}' is not a list of messages")
    return [_turn(turn, number) for number, turn in enumerate(found, 1)]


def _turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise BadRow(f"message {number} is not an object")
    said_by = turn.get("role", turn.get("from"))
    role = _ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        known = ", ".join(_ROLES)
        raise BadRow(f"message {number} is by '{said_by}', which is no role; known: {known}")
    fields = {
        key: value
        for key, value in turn.items()
        if key not in ("role", "from", "content", "value") and value is not None
    }
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):  # parts, as services for several media have them
        content = "".join(_part(part, number) for part in content)
    text = text_of(content, f"message {number}", required=not fields.get("tool_calls"))
    return Message(role=role, content=text, fields=fields or None)


def _part(part: Any, number: int) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise BadRow(f"message {number} has a part that is not text")


def text_of(value: Any, name: str, *, required: bool = True) -> str:
    """Return a text as such; an empty one where it is missing and not ``required``.

    Raises:
        BadRow: it is no text, or is empty and required.
    """
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"'{name}' is {type(value).__name__}, not a text")
    if required and not value.strip():
        raise BadRow(f"'{name}' is empty")
    return value


def _require_answer(messages: list[Message]) -> None:
    if not any(message.role == "assistant" for message in messages):
        raise BadRow("it has no answer of the assistant")
