"""The page of ``forge --help`` as typer and rich lay it out, without importing either.

A test holds it against theirs, at several widths.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # that of typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_NARROWEST = 66
"""Columns below which rich takes from all columns of a table."""

_ELSEWHERE = (
    "DATABRICKS_RUNTIME_VERSION",
    "FORCE_COLOR",
    "GITHUB_ACTIONS",
    "JUPYTER_COLUMNS",
    "NO_COLOR",
    "PY_COLORS",
    "TERMINAL_WIDTH",
    "TTY_COMPATIBLE",
    "TYPER_USE_RICH",
    "_TYPER_FORCE_DISABLE_TERMINAL",
)
"""Variables that change what rich does: with one of them set it does so itself."""

_DIM, _BOLD, _NAME, _SHORT, _USAGE, _TYPE, _BRACKET = (
    "2",
    "1",
    "1;36",
    "1;32",
    "1;33",
    "1;33",
    "1;2;33",
)


def help_page(commands: Mapping[str, Any], others: Mapping[str, str], *, program: str) -> str:
    """Return the page; empty where rich is needed for it.

    Args:
        commands: the root command as the table of commands has it.
        others: distributions of commands of plugins, by name.
        program: what the user calls it.
    """
    width = _width()
    if width < _NARROWEST or any(os.environ.get(name) for name in _ELSEWHERE):
        return ""
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        return ""
    coloured = sys.stdout.isatty()
    if coloured and os.environ.get("TERM", "").lower() in ("", "dumb", "unknown"):
        return ""
    return _Page(width, coloured=coloured).text(commands, others, program)


def _width() -> int:
    """Return how wide a page is, as rich finds it."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns):
        return int(columns)
    for descriptor in (0, 1, 2):
        try:
            return os.get_terminal_size(descriptor).columns or 80
        except OSError:
            continue
    return 80


class _Page:
    def __init__(self, width: int, *, coloured: bool) -> None:
        self._width = width
        self._coloured = coloured
        self._lines: list[str] = []

    def text(self, commands: Mapping[str, Any], others: Mapping[str, str], program: str) -> str:
        usage = f"{program} {commands['usage']}"
        self._add("", "")
        self._add(
            f" Usage: {usage}", f" {self._style('Usage: ', _USAGE)}{self._style(usage, _BOLD)}"
        )
        self._add("", "")
        for line in _wrapped(commands["help"], self._width - 2):
            self._add(f" {line}", f" {line}")
        self._add("", "")
        self._options(commands["options"])
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in commands["commands"].items():
            panels.setdefault(command["panel"], []).append((name, command["help"]))
        for name in sorted(others):
            if name not in commands["commands"]:
                source = f"From {others[name]}."
                panels.setdefault(commands["plugins"], []).append((name, source))
        longest = max(len(name) for rows in panels.values() for name, _ in rows)
        for title, rows in panels.items():
            self._panel(title, self._commands(rows, longest))
        self._add("", "")
        self._add(f" {commands['epilog']}", f" {commands['epilog']}")
        self._add("", "")
        return "\n".join([*self._lines, "", ""])

    def _options(self, options: Sequence[Mapping[str, Any]]) -> None:
        """Add the panel of the options: long name, short name, type, help."""
        rows = [
            (
                ",".join(name for name in option["names"] if "--" in name),
                ",".join(name for name in option["names"] if "--" not in name),
                option["type"],
                option["help"],
            )
            for option in options
        ]
        long, short, kind = (max(len(row[column]) for row in rows) for column in range(3))
        # Two columns that are empty here are between: names that switch something off.
        place, before = long + short + 8, long + short + kind + 10
        lines = []
        for one, other, label, about in rows:
            gap = " " * (place - long - 2 - len(other))
            first = (
                self._style(one, _NAME)
                + " " * (long + 2 - len(one))
                + (self._style(other, _SHORT) if other else "")
                + gap
                + self._style("<", _BRACKET)
                + self._style(label.strip("<>"), _TYPE)
                + self._style(">", _BRACKET)
            )
            first += " " * (before - place - len(label))
            for number, line in enumerate(_wrapped(about, self._width - 4 - before)):
                start = first if number == 0 else " " * before
                lines.append((before + len(line), start + line))
        self._panel("Options", lines)

    def _commands(self, rows: Sequence[tuple[str, str]], longest: int) -> list[tuple[int, str]]:
        lines = []
        for name, about in rows:
            for number, line in enumerate(_wrapped(about, self._width - 6 - longest)):
                shown = name if number == 0 else ""
                start = self._style(shown, _NAME) if shown else ""
                start += " " * (longest + 2 - len(shown))
                lines.append((longest + 2 + len(line), start + line))
        return lines

    def _panel(self, title: str, lines: Sequence[tuple[int, str]]) -> None:
        rule = "─" * (self._width - 5 - len(title))
        self._lines.append(self._style(f"╭─ {title} {rule}╮", _DIM))
        side = self._style("│", _DIM)
        for length, line in lines:
            self._lines.append(f"{side} {line}{' ' * (self._width - 4 - length)} {side}")
        self._lines.append(self._style(f"╰{'─' * (self._width - 2)}╯", _DIM))

    def _add(self, plain: str, styled: str) -> None:
        self._lines.append(styled + " " * (self._width - len(plain)))

    def _style(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured else text


def _wrapped(text: str, width: int) -> list[str]:
    """Return ``text`` in lines of at most ``width``, words kept whole."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if len(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
