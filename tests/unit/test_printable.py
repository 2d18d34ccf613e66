"""Nothing that people or files are called reaches a terminal as an instruction to it."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from llmforge.cli.render import Column, print_section, print_table
from llmforge.printable import decoded, printable, printable_line
from llmforge.redaction import RedactingFormatter
from llmforge.run.reporting.console import console

HOSTILE = "a\x1b[31mred\x07\x9bK\r\u202ez\udcff"
SHOWN = "a\\x1b[31mred\\x07\\x9bK\\x0d\\u202ez\\xff"


def test_control_characters_are_escaped() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable(SHOWN) == SHOWN
    assert printable("naïve 漢字 🙂\tand\nmore") == "naïve 漢字 🙂\tand\nmore"
    assert printable_line("two\nlines\tand a tab") == "two\\nlines\\tand a tab"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"na\xc3\xafve", "naïve"),
        (b"plain", "plain"),
        (b"\xff!", "\ufffd!"),
    ],
)
def test_undecoded_bytes_are_taken_as_utf8(raw: bytes, text: str) -> None:
    assert decoded(raw.decode("ascii", "surrogateescape")) == text
    assert decoded(text) == text


@pytest.mark.parametrize("terminal", [True, False])
def test_the_console_escapes_whatever_it_is_given(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = console()
    file = io.StringIO()
    monkeypatch.setattr(shown, "_file", file)
    monkeypatch.setattr(shown, "_force_terminal", terminal)
    table = Table()
    table.add_column("name")
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    shown.print(HOSTILE, style="bold")
    shown.print(Text(HOSTILE))
    shown.print(table)
    print_table(shown, [Column("name")], [[HOSTILE], ["two\nlines"]])
    print_section(shown, "title", {"name": HOSTILE})
    output = file.getvalue()
    assert not set(output.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[2m", "")) & {
        "\x1b",
        "\x07",
        "\x9b",
        "\r",
        "\u202e",
        "\udcff",
    }
    assert "two\\nlines" in output
    assert output.count(SHOWN[:12]) >= 5


def test_the_log_file_has_them_escaped(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(RedactingFormatter("%(message)s"))
    handler.emit(logging.LogRecord("llmforge", logging.INFO, "", 0, HOSTILE, None, None))
    handler.close()
    assert path.read_text(encoding="utf-8") == f"{SHOWN}\n"
