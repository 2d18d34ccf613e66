"""Whether ``--where`` holds, for all runs at once: a column of values per name, one of answers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import repeat
from typing import Any

from llmforge.errors import UsageError
from llmforge.insight.runs_index.where_syntax import (
    Comparison,
    Joined,
    Literal,
    Name,
    Negated,
    Node,
    refuse,
)
from llmforge.insight.summary import parse_length, parse_since

Column = Sequence[Any]

TIMES = frozenset({"started", "ended", "created"})
"""Columns of times: a text they are compared with is an age or a date."""
LENGTHS = frozenset({"duration"})
"""Columns of seconds: a text they are compared with is a length such as ``2h``."""

_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda part, whole: part in whole,
    "not in": lambda part, whole: part not in whole,
}


def names(node: Node) -> Iterator[Name]:
    """Yield every name of an expression in order, as often as it occurs."""
    if isinstance(node, Name):
        yield node
    elif isinstance(node, Comparison):
        for operand in node.operands:
            yield from names(operand)
    elif isinstance(node, Joined):
        for part in node.parts:
            yield from names(part)
    elif isinstance(node, Negated):
        yield from names(node.part)


def check_names(node: Node, text: str, known: Collection[str]) -> None:
    """Refuse names that are not in ``known``.

    Raises:
        UsageError: with the place in ``text`` and the nearest name there is.
    """
    for item in names(node):
        if item.name not in known:
            refuse(
                text,
                f"no run has '{item.name}'",
                item.start,
                item.end,
                remedy=_nearest(item.name, known),
            )


def matching(node: Node, text: str, columns: Callable[[str], Column], count: int) -> list[bool]:
    """Return for each of ``count`` runs whether the expression holds.

    A comparison with a value that a run does not have is false, and so is one of values that
    cannot be compared.

    Args:
        node: the expression.
        text: as it was written, for messages.
        columns: gives the values of a name, one per run, None where a run has none.
        count: how many runs there are.

    Raises:
        UsageError: a text that is compared with a time is none.
    """

    def holds(part: Node) -> list[bool]:
        if isinstance(part, Joined):
            meet = all if part.word == "and" else any
            return [meet(row) for row in zip(*map(holds, part.parts), strict=True)]
        if isinstance(part, Negated):
            return [not value for value in holds(part.part)]
        if isinstance(part, Comparison):
            pairs = list(zip(part.operands, part.signs, part.operands[1:], strict=False))
            results = [compared(*pair) for pair in pairs]
            return (
                results[0]
                if len(results) == 1
                else [all(row) for row in zip(*results, strict=True)]
            )
        if isinstance(part, Name):
            return [bool(value) for value in columns(part.name)]
        return [bool(part.value)] * count

    def compared(left: Node, sign: str, right: Node) -> list[bool]:
        none = next((x for x in (left, right) if isinstance(x, Literal) and x.value is None), None)
        if none is not None and sign in ("==", "!="):
            other = right if none is left else left
            return [(value is None) == (sign == "==") for value in values(other, left)]
        return _compare(_SIGNS[sign], values(left, right), values(right, left), count)

    def values(side: Node, other: Node) -> Any:
        if isinstance(side, Name):
            return columns(side.name)
        if isinstance(side, Literal):
            return repeat(_meant(side, other, text), count)
        return holds(side)

    return holds(node)


def _compare(sign: Callable[[Any, Any], Any], left: Any, right: Any, count: int) -> list[bool]:
    left, right = list(left), list(right)
    try:
        return [
            one is not None and other is not None and bool(sign(one, other))
            for one, other in zip(left, right, strict=True)
        ]
    except TypeError:
        return [_safely(sign, left[row], right[row]) for row in range(count)]


def _safely(sign: Callable[[Any, Any], Any], one: Any, other: Any) -> bool:
    try:
        return one is not None and other is not None and bool(sign(one, other))
    except TypeError:  # a text and a number have no order
        return False


def _meant(literal: Literal, other: Node, text: str) -> Any:
    """Return the value of a literal: a text beside a time is an age or a date."""
    if not isinstance(other, Name) or not isinstance(literal.value, str):
        return literal.value
    parse = parse_since if other.name in TIMES else parse_length
    if other.name not in TIMES | LENGTHS:
        return literal.value
    try:
        return parse(literal.value)
    except UsageError as error:
        what = error.message.partition(": ")[2]
        refuse(
            text, f"'{literal.value}' is {what}", literal.start, literal.end, remedy=error.remedy
        )


def _nearest(name: str, known: Collection[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    ending = [item for item in sorted(known) if item.endswith((f".{name}", f"/{name}"))]
    found = list(dict.fromkeys([*ending, *near]))[:3]
    if found:
        return f"did you mean {' or '.join(repr(item) for item in found)}?"
    return "'forge runs list --columns help' lists the names; texts go in quotes"
