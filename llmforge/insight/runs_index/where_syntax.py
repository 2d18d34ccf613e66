"""The language of ``--where``: comparisons of names with values, joined by and, or and not.

It is parsed here and nowhere evaluated as Python. A name is what the table calls a column, so it
may hold ``/``, ``.`` and ``-``: ``val/loss``, ``optimizer.adamw.lr``. Any other goes between
backquotes. ::

    where      = part { "or" part }
    part       = test { "and" test }
    test       = "not" test | operand { comparison operand }
    comparison = "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not" "in"
    operand    = number | string | "true" | "false" | "none" | name | list | "(" where ")"
    list       = "[" operand { "," operand } "]"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from llmforge.errors import UsageError

COMPARISONS = ("==", "!=", "<=", ">=", "<", ">", "in", "not in")
_WORDS = {"true": True, "false": False, "none": None}
_JOINING = frozenset({"and", "or", "not", "in"})
_DEEPEST = 50
_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<number>[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<string>'[^']*'|\"[^\"]*\")"
    r"|(?P<quoted>`[^`]+`)"
    r"|(?P<name>[^\W\d]\w*(?:[-./:@]+\w+)*)"
    r"|(?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)"
    r"|(?P<end>$)"
    r")"
)

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Literal:
    """A value, or a list of values, as it is written."""

    value: Value | tuple[Value, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Name:
    """A column, by name."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Comparison:
    """``first < second <= third``: the signs between the operands, which are one more."""

    operands: tuple[Node, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Joined:
    """Parts of which all (``and``) or any (``or``) must hold."""

    word: str
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Negated:
    """``not`` something."""

    part: Node


Node = Literal | Name | Comparison | Joined | Negated
_Rule = Callable[[], Node]


def parse(text: str) -> Node:
    """Return the expression ``text`` as a tree.

    Raises:
        UsageError: it is none; the message shows the place.
    """
    return _Parser(text).whole()


def refuse(text: str, what: str, start: int, end: int, *, remedy: str = "") -> NoReturn:
    """Fail over the part of ``text`` from ``start`` to ``end``, which is marked.

    Raises:
        UsageError: always.
    """
    line = text.replace("\n", " ").replace("\t", " ")
    marks = " " * start + "^" * max(1, end - start)
    raise UsageError(f"--where: {what}\n    {line}\n    {marks}", remedy=remedy)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    """Takes the expression apart from left to right, a method per rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0

    def whole(self) -> Node:
        if self._now.kind == "end":
            self._refuse("the expression is empty", remedy="for example: --where 'val/loss < 3.3'")
        node = self._any()
        if self._now.kind != "end":
            self._refuse(
                f"'{self._now.text}' is not expected here",
                remedy="join conditions with 'and' or 'or', and put texts in quotes",
            )
        return node

    def _any(self) -> Node:
        return self._joined("or", lambda: self._joined("and", self._test))

    def _joined(self, word: str, part: _Rule) -> Node:
        parts = [part()]
        while self._word(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Joined(word, tuple(parts))

    def _test(self) -> Node:
        if self._word("not"):
            return self._deeper(lambda: Negated(self._test()))
        operands, signs = [self._operand()], []
        while (sign := self._comparison()) is not None:
            signs.append(sign)
            operands.append(self._operand())
        return Comparison(tuple(operands), tuple(signs)) if signs else operands[0]

    def _comparison(self) -> str | None:
        if self._word("in"):
            return "in"
        after = self._tokens[min(self._next + 1, len(self._tokens) - 1)]
        if self._is_word("not") and after.kind == "name" and after.text == "in":
            self._next += 2
            return "not in"
        if self._now.kind == "sign" and self._now.text in COMPARISONS:
            return self._take().text
        return None

    def _operand(self) -> Node:
        if self._sign("("):
            node = self._deeper(self._any)
            if not self._sign(")"):
                self._refuse("')' is missing here")
            return node
        if self._now.text == "[" and self._now.kind == "sign":
            return self._list()
        token = self._now
        if token.kind == "name" and token.text not in _JOINING and token.text.lower() not in _WORDS:
            self._take()
            return Name(token.text, token.start, token.end)
        if token.kind == "quoted":
            self._take()
            return Name(token.text[1:-1], token.start, token.end)
        return self._literal()

    def _list(self) -> Literal:
        start = self._take().start
        values: list[Value] = []
        while not self._sign("]"):
            if values and not self._sign(","):
                self._refuse("',' or ']' is missing here")
            value = self._literal().value
            assert not isinstance(value, tuple)
            values.append(value)
        return Literal(tuple(values), start, self._tokens[self._next - 1].end)

    def _literal(self) -> Literal:
        token = self._now
        if token.kind == "number":
            value: Value = _number(token.text)
        elif token.kind == "string":
            value = token.text[1:-1]
        elif token.kind == "name" and token.text.lower() in _WORDS:
            value = _WORDS[token.text.lower()]
        elif token.kind == "end":
            self._refuse("something is missing at the end")
        else:
            self._refuse(f"a name or a value is expected, not '{token.text}'")
        self._take()
        return Literal(value, token.start, token.end)

    def _deeper(self, rule: _Rule) -> Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._refuse(f"more than {_DEEPEST} levels are too many")
        node = rule()
        self._depth -= 1
        return node

    @property
    def _now(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _is_word(self, word: str) -> bool:
        return self._now.kind == "name" and self._now.text == word

    def _word(self, word: str) -> bool:
        found = self._is_word(word)
        self._next += found
        return found

    def _sign(self, sign: str) -> bool:
        found = self._now.kind == "sign" and self._now.text == sign
        self._next += found
        return found

    def _refuse(self, what: str, *, remedy: str = "") -> NoReturn:
        refuse(self._text, what, self._now.start, self._now.end, remedy=remedy)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    place = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(text, place)
        if match is None:
            _refuse_character(text, place)
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind), match.end(kind)))
        place = match.end()
    return found


def _refuse_character(text: str, place: int) -> NoReturn:
    start = place + len(text[place:]) - len(text[place:].lstrip())
    character = text[start]
    remedy = ""
    if character == "=":
        remedy = "write == to compare"
    elif character in "'\"`":
        refuse(text, "the quote is never closed", start, len(text))
    elif character in "&|!":
        remedy = "write and, or, not"
    elif character.isdigit() or character in "+-*/%":
        remedy = "there is no arithmetic; names with other signs go between backquotes"
    refuse(text, f"'{character}' has no meaning here", start, start + 1, remedy=remedy)


def _number(text: str) -> int | float:
    plain = text.replace("_", "")
    return int(plain) if re.fullmatch(r"[-+]?\d+", plain) else float(plain)
