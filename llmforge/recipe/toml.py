"""TOML: on which line each key of a document is written, and writing one, with comments if wanted.

:mod:`tomllib` parses, but does not say on which line a value stands. The scanner here finds only
that: it walks the text of a document that is known to be valid and notes the line of every key.
"""

from __future__ import annotations

import bisect
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import tomli_w

KeyPath = tuple[str, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?""""{0,2}'  # multi-line basic; up to two quotes may precede the closing
    r"|'''.*?''''{0,2}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")

_COLUMN = 44
"""Origins begin here, unless a value is longer."""
_WIDTH = 100


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the 1-based line of every key and table header of a valid TOML document.

    Keys are paths of unquoted parts; the items of an array appear as ``("key", "0")`` and so on.
    A table that is opened several times is at its first header.
    """
    return _Scanner(text).scan()


def dotted(path: KeyPath) -> str:
    """Return ``path`` as TOML writes a dotted key, quoting the parts that need it."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else _quoted(part) for part in path)


def parse_key(text: str) -> KeyPath:
    """Return the parts of a dotted TOML key.

    Raises:
        ValueError: ``text`` is not a key.
    """
    if "\n" in text:
        raise ValueError(f"not a key: {text!r}")
    node: Any = tomllib.loads(f"{text} = 0")
    path: list[str] = []
    while isinstance(node, dict):
        ((part, node),) = node.items()
        path.append(part)
    return tuple(path)


def to_toml(tables: Mapping[str, Any]) -> str:
    """Return nested plain tables as a TOML document."""
    return tomli_w.dumps(tables)


def to_annotated_toml(tables: Mapping[str, Any], *, origins: Mapping[str, str]) -> str:
    """Return ``tables`` as TOML with the origin of each value as a comment at its line.

    The comments stand in one column; a value too long for that gets its comment above.
    """
    text = to_toml(tables)
    comments = {line: origins.get(dotted(path)) for path, line in key_lines(text).items()}
    rows = []
    for number, row in enumerate(text.splitlines(), start=1):
        comment = comments.get(number)
        if not comment:
            rows.append(row)
        elif len(row) + len(comment) + 4 <= _WIDTH:
            rows.append(f"{row:<{_COLUMN}}  # {comment}")
        else:
            rows += [f"# {comment}", row]
    return "\n".join(rows) + "\n"


def _quoted(part: str) -> str:
    escaped = part.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [index for index, char in enumerate(text) if char == "\n"]
        self._lines: dict[KeyPath, int] = {}
        self._array_sizes: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self._text):
            if self._take("[["):
                table = self._array_header()
            elif self._take("["):
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _header(self) -> KeyPath:
        line = self._line()
        path = self._resolve(self._key())
        self._take("]")
        self._note(path, line)
        return path

    def _array_header(self) -> KeyPath:
        line = self._line()
        *parents, last = self._key()
        path = (*self._resolve(tuple(parents)), last)
        self._take("]]")
        index = self._array_sizes.get(path, 0)
        self._array_sizes[path] = index + 1
        item = (*path, str(index))
        self._note(item, line)
        return item

    def _resolve(self, parts: KeyPath) -> KeyPath:
        """Return the path of a header, through the newest item of each array of tables."""
        path: KeyPath = ()
        for part in parts:
            path = (*path, part)
            if path in self._array_sizes:
                path = (*path, str(self._array_sizes[path] - 1))
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table + self._key()
        self._note(path, line)
        self._take("=")
        self._skip(_SPACES)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        if self._take("["):
            self._items(path)
        elif self._take("{"):
            self._inline_table(path)
        elif match := _STRING.match(self._text, self._at):
            self._at = match.end()
        else:
            self._skip(_SCALAR)

    def _items(self, path: KeyPath) -> None:
        index = 0
        self._skip(_BLANK)
        while not self._take("]"):
            item = (*path, str(index))
            self._note(item, self._line())
            self._value(item)
            index += 1
            self._skip(_BLANK)
            self._take(",")
            self._skip(_BLANK)

    def _inline_table(self, path: KeyPath) -> None:
        self._skip(_BLANK)
        while not self._take("}"):
            self._pair(path)
            self._skip(_BLANK)
            self._take(",")
            self._skip(_BLANK)

    def _key(self) -> KeyPath:
        start = self._at
        while True:
            self._skip(_SPACES)
            pattern = _STRING if self._text[self._at] in "\"'" else _BARE_KEY
            self._skip(pattern)
            self._skip(_SPACES)
            if not self._take("."):
                return parse_key(self._text[start : self._at])

    def _note(self, path: KeyPath, line: int) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], line)

    def _line(self) -> int:
        return bisect.bisect_left(self._newlines, self._at) + 1

    def _take(self, token: str) -> bool:
        found = self._text.startswith(token, self._at)
        if found:
            self._at += len(token)
        return found

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"line {self._line()}: the document is not valid TOML")
        self._at = match.end()
        return self._at
