"""The command greets, shows a log, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from llmforge.errors import UsageError

from llmforge_hello.command import hello


def test_it_says_hello(capsys: pytest.CaptureFixture[str]) -> None:
    hello(None)
    assert capsys.readouterr().out.startswith("Hello from llmforge-hello")


def test_it_shows_what_the_tracker_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "trackers" / "hello" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("hello, r1\n", encoding="utf-8")
    hello(tmp_path)
    assert capsys.readouterr().out == "hello, r1\n"


def test_a_run_without_the_tracker_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="wrote nothing"):
        hello(tmp_path)
