"""Rendering conversations with chat templates, and knowing what in the text is whose.

A chat template is a Jinja document that lays messages out as text. What of that text was said by
whom is found by rendering twice: once as it is, and once with a mark in place of every content.
What stands between the marks is the template's own; the two must agree everywhere, or the template
changes what is said in a way that cannot be followed, and is refused. Nothing is searched for in
what users wrote.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llmforge.errors import DataError
from llmforge.interfaces.examples import ExampleLayout, Message
from llmforge.interfaces.tokenizer import ChatTokenizer, Tokenizer

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}"
        "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "alpaca": (
        "{% for message in messages %}"
        "{% if message.role == 'system' %}{{ message.content }}\n\n"
        "{% elif message.role == 'user' %}### Instruction:\n{{ message.content }}\n\n"
        "{% else %}### Response:\n{{ message.content }}{{ eos_token }}"
        "{% if not loop.last %}\n\n{% endif %}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
    "plain": "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}",
}
"""Templates by name: ChatML, Alpaca's headings, and turns that the end of text joins (DialoGPT)."""

_FALLBACK = "alpaca"
"""The template of a tokenizer that has none."""

_TODAY = datetime(2024, 7, 26)
"""The date that templates which ask for one are given: a cache must not change every day."""

_FIRST_MARK = 0xE000  # the beginning of Unicode's private use area
_SPAN_BEGIN, _SPAN_END = "\uf8f0", "\uf8f1"


class TemplateError(DataError):
    """A conversation that a template cannot be applied to, or not for certain."""


@dataclass(frozen=True)
class Piece:
    """A part of a rendered conversation.

    Attributes:
        text: its text.
        message: index of the message whose content it is; None when it is the template's.
    """

    text: str
    message: int | None


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as text.

    Attributes:
        pieces: whose text it is, in order.
        generated: characters [begin, end) that the template itself marks as generated
            (``{% generation %}``); None when it has no such marks.
        told_apart: whether contents are pieces of their own; else all is one of the template's.
    """

    pieces: tuple[Piece, ...]
    generated: tuple[tuple[int, int], ...] | None
    told_apart: bool = True

    @property
    def text(self) -> str:
        """Return all of it."""
        return "".join(piece.text for piece in self.pieces)


class ChatTemplate:
    """A chat template, run in a sandbox.

    Args:
        source: the Jinja document.
        name: what messages call it.
        tokens: texts of special tokens by the name that templates use, such as ``eos_token``.

    Raises:
        TemplateError: it is not valid Jinja.
    """

    def __init__(self, source: str, *, name: str, tokens: Mapping[str, str | None]) -> None:
        import jinja2

        self.source = source
        self.name = name
        self._tokens = {key: value for key, value in tokens.items() if value is not None}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the template {name} is not valid Jinja: line {error.lineno}: {error.message}"
            ) from None

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> Rendered:
        """Return the conversation as text.

        Raises:
            TemplateError: the template refuses the conversation, or changes what is said in a way
                that cannot be followed.
        """
        true, generated = _unmarked(self._render(messages, add_generation_prompt))
        marks = _marks(messages)
        marked = [
            Message(
                role=message.role, content=mark if message.content else "", fields=message.fields
            )
            for mark, message in zip(marks, messages, strict=True)
        ]
        text, _ = _unmarked(self._render(marked, add_generation_prompt))
        try:
            pieces = tuple(self._aligned(true, text, marks, messages))
        except TemplateError:
            if generated is None:
                raise
            return Rendered(pieces=(Piece(true, None),), generated=generated, told_apart=False)
        return Rendered(pieces=pieces, generated=generated)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        import jinja2

        shown = [
            {"role": item.role, "content": item.content, **(item.fields or {})} for item in messages
        ]
        try:
            return self._template.render(
                messages=shown, add_generation_prompt=add_generation_prompt, **self._tokens
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise TemplateError(f"the template {self.name} refuses it: {error}") from None

    def _aligned(
        self, true: str, marked: str, marks: Sequence[str], messages: Sequence[Message]
    ) -> Iterator[Piece]:
        """Yield the pieces of ``true``, whose contents are where the marks are."""
        index = {mark: number for number, mark in enumerate(marks)}
        parts = re.split(f"({'|'.join(map(re.escape, marks))})", marked) if marks else [marked]
        position = 0
        for own, mark, following in zip(
            parts[::2], [*parts[1::2], ""], [*parts[2::2], ""], strict=True
        ):
            if not true.startswith(own, position):
                raise self._unclear()
            position += len(own)
            if own:
                yield Piece(own, None)
            if not mark:
                continue
            content = messages[index[mark]].content
            forms = dict.fromkeys((content, content.rstrip(), content.lstrip(), content.strip()))
            found = next(
                (form for form in forms if true.startswith(form + following, position)), None
            )
            if found is None:
                raise self._unclear()
            position += len(found)
            if found:
                yield Piece(found, index[mark])
        if position != len(true):
            raise self._unclear()

    def _unclear(self) -> TemplateError:
        return TemplateError(
            f"the template {self.name} changes what is said, and its parts cannot be told apart",
            remedy="choose another template, or mark what is learned by "
            "{% generation %} … {% endgeneration %}",
        )


def chat_template(layout: ExampleLayout, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Return the template that a layout names: a name, a file, or the tokenizer's own.

    None where it names none, since there are no conversations.

    Raises:
        DataError: there is no such template, or the tokenizer cannot be used with one.
    """
    if not isinstance(tokenizer, ChatTokenizer):
        raise DataError(
            "this tokenizer does not say where its tokens are in a text, which examples need",
            remedy="choose another tokenizer, such as hf or bpe",
        )
    name = layout.template
    if name is None:
        return None
    if name == "auto":
        if (own := tokenizer.chat_template) is not None:
            return template_of(own, name="of the tokenizer", tokenizer=tokenizer)
        name = _FALLBACK
    if name in TEMPLATES:
        return template_of(TEMPLATES[name], name=name, tokenizer=tokenizer)
    try:
        source = Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the template '{name}' cannot be read: {getattr(error, 'strerror', None) or error}",
            remedy=f"give a file, auto or one of {', '.join(TEMPLATES)}",
        ) from None
    return template_of(source, name=name, tokenizer=tokenizer)


def template_of(source: str, *, name: str, tokenizer: ChatTokenizer) -> ChatTemplate:
    """Return the template ``source`` with the special tokens of a tokenizer.

    Raises:
        TemplateError: it is not valid Jinja.
    """
    tokens = {"eos_token": tokenizer.eos_token, "bos_token": tokenizer.bos_token}
    return ChatTemplate(source, name=name, tokens=tokens)


def _marks(messages: Sequence[Message]) -> list[str]:
    """Return a text for each message that occurs in no content."""
    said = "".join(message.content for message in messages)
    free = (chr(code) for code in range(_FIRST_MARK, _FIRST_MARK + 0x1800) if chr(code) not in said)
    mark = next(free)
    return [f"{mark}{index}{mark}" for index in range(len(messages))]


def _unmarked(text: str) -> tuple[str, tuple[tuple[int, int], ...] | None]:
    """Return text without the marks of ``{% generation %}``, and what was between them."""
    if _SPAN_BEGIN not in text:
        return text, None
    spans: list[tuple[int, int]] = []
    kept: list[str] = []
    length = 0
    for part in re.split(f"([{_SPAN_BEGIN}{_SPAN_END}])", text):
        if part == _SPAN_BEGIN:
            spans.append((length, length))
        elif part == _SPAN_END:
            spans[-1] = (spans[-1][0], length)
        else:
            kept.append(part)
            length += len(part)
    return "".join(kept), tuple(spans)


@functools.cache
def _environment() -> Any:
    """Return Jinja as the authors of chat templates expect it, without access to anything else.

    Blocks are trimmed, ``break`` and ``continue`` are known, ``tojson`` escapes nothing, and
    ``raise_exception`` refuses a conversation: as ``apply_chat_template`` of transformers does it.
    """
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError as JinjaError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_between")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _between(self, caller: Any) -> str:
            return f"{_SPAN_BEGIN}{caller()}{_SPAN_END}"

    def refuse(message: str) -> None:
        raise JinjaError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = _TODAY.strftime
    return environment
