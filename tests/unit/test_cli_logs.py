"""Which log lines reach the screen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from llmforge.cli import logs

log = logging.getLogger("llmforge.run")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The lines that reach the screen, with a logger as it is before a command."""
    printed: list[str] = []
    console = SimpleNamespace(print=lambda text, **_: printed.append(text))
    monkeypatch.setattr(logs, "console", lambda: console)
    monkeypatch.setattr(logs, "_chosen", None)
    logger = logging.getLogger("llmforge")
    handlers, level = list(logger.handlers), logger.level
    logger.handlers, logger.level = [], logging.NOTSET
    yield printed
    logger.handlers = handlers
    logger.setLevel(level)


def log_one_of_each(**extra: bool) -> None:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        log.log(level, logging.getLevelName(level).lower(), extra=extra)


@pytest.mark.parametrize(
    ("level", "verbose", "quiet", "lines"),
    [
        ("info", False, False, ["info", "notice: warning"]),
        ("warning", False, False, ["notice: warning"]),
        ("debug", False, False, ["debug", "info", "notice: warning"]),
        ("info", False, True, ["notice: warning"]),
        ("warning", True, False, ["debug", "info", "notice: warning"]),
    ],
)
def test_the_recipe_decides_unless_the_command_line_does(
    screen: list[str], level: str, verbose: bool, quiet: bool, lines: list[str]
) -> None:
    logs.set_verbosity(verbose=verbose, quiet=quiet)
    logs.set_verbosity(verbose=False, quiet=False)  # said before the command, not after it
    logs.show_logs(level)
    log_one_of_each()
    assert screen == lines


def test_lines_are_shown_once_however_often_it_is_asked_for(screen: list[str]) -> None:
    logs.show_logs("warning")
    logs.show_logs("warning")
    log_one_of_each()
    assert screen == ["notice: warning"]


def test_lines_the_live_display_has_stay_off_the_screen(screen: list[str]) -> None:
    logs.show_logs("info")
    log_one_of_each(screen=False)
    assert screen == []
