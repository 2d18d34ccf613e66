"""The interactive session, with typed lines and a generator of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmforge.errors import UsageError
from llmforge.generation import session as session_module
from llmforge.generation.session import Session
from llmforge.generation.text import StreamedText
from llmforge.interfaces import GenerationRequest
from llmforge.recipe import Selection
from llmforge_plugins.generation.sampler import Sampler

Line = str | type[BaseException]


class Echo:
    """Says the prompt in capitals, letter by letter, with its seed and temperature."""

    def __init__(self, selection: Selection) -> None:
        self._options: Any = selection.options

    def generate(self, request: GenerationRequest) -> list[Any]:
        assert request.on_text is not None
        (prompt,) = request.prompts
        if prompt == "bad":
            raise UsageError("this prompt is bad", remedy="type another")
        for letter in prompt.upper():
            if letter == "!":
                raise KeyboardInterrupt
            request.on_text(0, letter)
        request.on_text(0, f" {request.seed} {self._options.temperature}")
        return []


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "build_generator", lambda _, selection: Echo(selection))


def converse(*lines: Line) -> tuple[list[str], str]:
    """Return the notes and everything written while these lines were typed."""
    typed: Iterator[Line] = iter([*lines, EOFError])
    notes: list[str] = []
    written: list[str] = []

    def read() -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    selection = Selection("generation", "sampler", Sampler.Options())
    session = Session(
        None,  # type: ignore[arg-type]
        selection,
        seed=5,
        chat=None,
        system=None,
        read=read,
        write=written.append,
        begin=lambda prompt: written.append(f"<{prompt}>"),
        note=notes.append,
    )
    session.run()
    assert lines[-1:] == ("/quit",) or next(typed, None) is None
    return notes, "".join(written)


def test_each_text_is_continued_with_the_next_seed() -> None:
    assert converse("one", "two") == ([], "<one>ONE 5 0.8\n<two>TWO 6 0.8\n")


def test_a_prompt_is_shown_with_the_first_piece_or_at_the_end_of_an_empty_text() -> None:
    written: list[str] = []
    shown = StreamedText(
        "a", begin=lambda prompt: written.append(f"<{prompt}>"), write=written.append
    )
    assert written == []
    shown(0, "b")
    shown(0, "c")
    shown.end()
    assert "".join(written) == "<a>bc\n"
    written.clear()
    StreamedText("a", begin=written.append, write=written.append).end()
    assert written == ["a", "\n"]


def test_options_change_between_texts() -> None:
    notes, written = converse("/set temperature=0.5", "/set seed = 9", "a")
    assert (notes, written) == ([], "<a>A 9 0.5\n")


def test_set_alone_shows_the_options() -> None:
    notes, _ = converse("/set stop=['END']", "/set")
    assert "  seed = 5" in notes[0]
    assert "  stop = ['END']" in notes[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temprature=1", "did you mean 'temperature'?"),
        ("/set temperature=hot", "temperature"),
        ("/set temperature", "option=value"),
        ("/set seed=x", "whole number"),
        ("/sett", "unknown command"),
        ("bad", "this prompt is bad"),
    ],
)
def test_a_mistake_is_told_and_the_session_goes_on(line: str, message: str) -> None:
    notes, written = converse(line, "go")
    assert len(notes) == 1
    assert message in notes[0]
    assert "GO" in written


def test_ctrl_c_stops_the_text_and_not_the_session() -> None:
    notes, written = converse("one! more", "two")
    assert notes == ["stopped"]
    assert written == "<one! more>ONE\n<two>TWO 6 0.8\n"


def test_ctrl_c_at_the_prompt_gives_up_the_line_only() -> None:
    assert converse(KeyboardInterrupt, "a")[1] == "<a>A 5 0.8\n"


@pytest.mark.parametrize("command", ["/quit", " /quit "])
def test_quit_leaves(command: str) -> None:
    assert converse("a", command.strip())[1] == "<a>A 5 0.8\n"


def test_help_names_every_command_and_empty_lines_do_nothing() -> None:
    notes, written = converse("", "   ", "/help")
    assert written == ""
    assert all(command in notes[0] for command in ("/set", "/help", "/quit", "Ctrl-D", "Ctrl-C"))
