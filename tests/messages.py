"""Lists every text that a user can be shown: ``python tests/messages.py``.

To be read through as a whole: errors and their remedies, notices, printed lines, log lines, help.
A line is ``file:line  kind  text``; what a text fills in is shown as its expression in braces.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "llmforge", ROOT / "plugins" / "llmforge_plugins")
PRINTERS = {
    *("echo", "print", "say", "notice", "phase", "write", "confirm", "note", "_note", "_notice"),
    *("warning", "info", "error", "tell", "on_error", "on_notice"),
}
"""Functions whose first argument is shown."""

KEYWORDS = {"remedy", "help", "reason", "description"}
"""Arguments that are shown, whatever takes them."""

ERRORS = ("Error", "Problem", "Interrupted", "PeerFailed")


@dataclass(frozen=True)
class Message:
    """A text in the code.

    Attributes:
        place: ``file:line``.
        kind: the function or argument that shows it.
        text: itself.
    """

    place: str
    kind: str
    text: str


def messages() -> Iterator[Message]:
    """Yield every message, by file and line."""
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            yield from _of_file(path)


def _of_file(path: Path) -> Iterator[Message]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        shown = [(name, value) for value in node.args if name.endswith(ERRORS)]
        if name in PRINTERS:
            shown += [(name, value) for value in node.args[:1]]
        shown += [(word.arg, word.value) for word in node.keywords if word.arg in KEYWORDS]
        for kind, value in shown:
            for text in _texts(value):
                if len(text.split()) > 1:
                    place = f"{path.relative_to(ROOT)}:{value.lineno}"
                    yield Message(place, kind, text)


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
            for part in node.values
        )
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.BinOp):
        yield "".join(text for side in (node.left, node.right) for text in _texts(side))


if __name__ == "__main__":
    for message in messages():
        print(f"{message.place}  {message.kind}  {message.text!r}")
