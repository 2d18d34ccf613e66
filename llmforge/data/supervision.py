"""Which tokens of a conversation are learned.

Scored are the characters that the assistant said and the token that ends the turn; tokens follow
from where they are in the text, never from what they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Literal

from llmforge.data.chat_template import ChatTemplate, Piece, Rendered, TemplateError
from llmforge.interfaces import ChatTokenizer, Message, Row

TrainOn = Literal["responses", "last_response", "all"]

_LEARNED = ("assistant", "model", "gpt")


class Supervision:
    """Turns conversations into tokens of which some are learned.

    Args:
        template: how messages are laid out.
        tokenizer: what makes tokens of the text.
        train_on: ``responses`` of the assistant, the ``last_response`` or ``all`` of the text.
    """

    def __init__(
        self, template: ChatTemplate, tokenizer: ChatTokenizer, *, train_on: TrainOn = "responses"
    ) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._train_on = train_on
        texts = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, texts))) if texts else None

    def apply(self, messages: Sequence[Message]) -> Row:
        """Return the tokens of a conversation.

        Raises:
            TemplateError: the template cannot be applied, or what is learned cannot be told.
        """
        rendered = self._template.render(messages)
        self._require_harmless(rendered, messages)
        rendered, spans = self._spans(rendered, messages)
        ids, offsets = self._encode(rendered)
        scored = _scored(rendered.text, offsets, spans)
        if ids:
            scored[0] = False
        return Row(tuple(ids), tuple(scored))

    def _require_harmless(self, rendered: Rendered, messages: Sequence[Message]) -> None:
        """Refuse text of users that would become a special token, since nobody saw where it went.

        Raises:
            TemplateError: there is such text.
        """
        if self._special is None:
            return
        for number, message in enumerate(messages, 1):
            hidden = [json.dumps(dict(message.fields or {}), ensure_ascii=False, default=str)]
            if not rendered.told_apart:
                hidden.append(message.content)
            found = next(filter(None, map(self._special.search, hidden)), None)
            if found is not None:
                raise TemplateError(
                    f"message {number} has the text of the special token {found[0]}, and the "
                    f"template {self._template.name} does not show where it goes",
                    remedy="take it out of the data",
                )

    # What is learned, as characters --------------------------------------------------------

    def _spans(
        self, rendered: Rendered, messages: Sequence[Message]
    ) -> tuple[Rendered, list[tuple[int, int]]]:
        if self._train_on == "all":
            return rendered, [(0, len(rendered.text))]
        if rendered.generated is not None:
            spans = list(rendered.generated)
        else:
            rendered, spans = self._of_the_assistant(rendered, messages)
        return rendered, spans[-1:] if self._train_on == "last_response" else spans

    def _of_the_assistant(
        self, rendered: Rendered, messages: Sequence[Message]
    ) -> tuple[Rendered, list[tuple[int, int]]]:
        """Return what the assistant said, each time with the token that ends the turn."""
        pieces = list(rendered.pieces)
        learned = [i for i, item in enumerate(messages) if item.role in _LEARNED]
        shown = {piece.message for piece in pieces}
        for index in learned:
            if (messages[index].fields or {}).get("tool_calls"):
                raise TemplateError(
                    f"the template {self._template.name} does not mark what the assistant says "
                    f"when it calls a tool (message {index + 1})",
                    remedy="a template with {% generation %} … {% endgeneration %} does",
                )
            if messages[index].content.strip() and index not in shown:
                raise TemplateError(
                    f"the template {self._template.name} leaves out message {index + 1}, "
                    "an answer of the assistant"
                )
        last = max((i for i, piece in enumerate(pieces) if piece.message is not None), default=-1)
        spans: list[tuple[int, int]] = []
        position = 0
        for number, piece in enumerate(list(pieces)):
            begin, position = position, position + len(piece.text)
            if piece.message not in learned:
                continue
            following = pieces[number + 1].text if number + 1 < len(pieces) else ""
            end = self._end_of_turn(following)
            if end is None and number == last and not following.strip():
                del pieces[number + 1 :]
                pieces.append(Piece(self._required_eos(), None))
                end = len(pieces[-1].text)
            if end is None:
                raise TemplateError(
                    f"the template {self._template.name} does not end the assistant's turns with a "
                    "special token, so that a model cannot learn to stop",
                    remedy="choose another template, or add {{ eos_token }} to it",
                )
            spans.append((begin, position + end))
        return Rendered(pieces=tuple(pieces), generated=None), spans

    def _end_of_turn(self, text: str) -> int | None:
        """Return the length of the special token ``text`` begins with, white space before it."""
        if self._special is None:
            return None
        found = self._special.match(text, len(text) - len(text.lstrip()))
        return None if found is None else found.end()

    def _required_eos(self) -> str:
        if self._tokenizer.eos_token is None:
            raise TemplateError(
                f"the template {self._template.name} ends without a special token, and the "
                "tokenizer has no end-of-text token to add"
            )
        return self._tokenizer.eos_token

    # Tokens --------------------------------------------------------------------------------

    def _encode(self, rendered: Rendered) -> tuple[list[int], list[tuple[int, int]]]:
        """Return tokens and where each is; what users say never becomes a special token."""
        special = self._special
        said = (piece.text for piece in rendered.pieces if piece.message is not None)
        if special is None or not any(special.search(text) for text in said):
            ids, offsets = self._tokenizer.encode_spans(rendered.text, special=True)
            return list(ids), list(offsets)
        return self._encode_around(rendered)

    def _encode_around(self, rendered: Rendered) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode what stands between the template's special tokens, each part on its own.

        Tokenizers split at special tokens first of all, so the result is that of the whole text.
        """
        assert self._special is not None
        cuts: list[tuple[int, int]] = []
        position = 0
        for piece in rendered.pieces:
            if piece.message is None:
                cuts += [
                    (position + found.start(), position + found.end())
                    for found in self._special.finditer(piece.text)
                ]
            position += len(piece.text)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        done, text = 0, rendered.text
        for begin, end in [*cuts, (len(text), len(text))]:
            if begin > done:
                part, spans = self._tokenizer.encode_spans(text[done:begin], special=False)
                ids += part
                offsets += [(done + first, done + last) for first, last in spans]
            if end > begin:
                ids.append(self._tokenizer.special_tokens[text[begin:end]])
                offsets.append((begin, end))
            done = end
        return ids, offsets


def _scored(
    text: str, offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> list[bool]:
    """Return whether each token is in a span.

    A token that begins with white space before a span belongs to it: tokenizers join a space to
    the word after it.

    Raises:
        TemplateError: a token holds other text of both inside and outside.
    """
    scored = [False] * len(offsets)
    for begin, end in spans:
        for number, (first, last) in enumerate(offsets):
            if last <= begin or first >= end or first == last:
                continue
            if text[first:begin].strip() or text[end:last].strip():
                raise TemplateError(
                    f"the token {text[first:last]!r} holds both an answer and what is not one",
                    remedy="choose a template with a line break or special token before answers",
                )
            scored[number] = True
    return scored
