"""Preflight of the trackers: one that raises or hangs is reported, and bounded."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from llmforge import Component, hookimpl
from llmforge.courier.preflight import ask_trackers
from llmforge.errors import Problem
from llmforge.interfaces import RunContext
from llmforge.testing import run_context


class Ready(Component, kind="tracker"):
    """Is ready, with a remark."""

    name = "ready"

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Say so."""
        run.notice("the server is away")
        return []


class NoKey(Component, kind="tracker"):
    """Lacks its key."""

    name = "no-key"

    @hookimpl
    def forge_preflight(self) -> list[Problem]:
        """Say what is missing."""
        return [Problem(key="tracker.no-key", message="no key", remedy="set KEY")]


class Raiser(Component, kind="tracker"):
    """Raises."""

    name = "raiser"

    @hookimpl
    def forge_preflight(self) -> list[Problem]:
        """Raise."""
        raise ConnectionError("injected")


class Sleeper(Component, kind="tracker"):
    """Hangs until the test ends."""

    name = "sleeper"
    ended = threading.Event()

    @hookimpl
    def forge_preflight(self) -> list[Problem]:
        """Hang."""
        self.ended.wait(60)
        return []


class Lacking(Component, kind="tracker"):
    """Needs a package nobody has."""

    name = "lacking"
    requires = ("a_package_nobody_has",)


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    return run_context(tmp_path)


def test_problems_and_notices_are_gathered_from_all(run: RunContext) -> None:
    found = ask_trackers([Ready(), NoKey()], run, strict=False)
    assert [problem.message for problem in found.problems] == ["no key"]
    assert found.notices == ["the server is away"]


def test_one_that_raises_is_a_notice_and_hides_no_other(run: RunContext) -> None:
    found = ask_trackers([Raiser(), NoKey()], run, strict=False)
    assert [problem.message for problem in found.problems] == ["no key"]
    assert found.notices == [
        "tracker raiser is not ready: ConnectionError: injected; its events wait in the journal"
    ]


def test_one_that_hangs_is_a_notice_within_the_bound(run: RunContext) -> None:
    began = time.monotonic()
    try:
        found = ask_trackers([Sleeper(), Ready()], run, strict=False, seconds=0.3)
    finally:
        Sleeper.ended.set()
    assert time.monotonic() - began < 5
    assert found.problems == []
    assert "sleeper is not ready: it did not answer within 0 s" in found.notices[0]
    assert found.notices[1] == "the server is away"


def test_a_strict_run_does_not_start_with_one_that_raises(run: RunContext) -> None:
    found = ask_trackers([Raiser()], run, strict=True)
    assert [str(problem) for problem in found.problems] == [
        "tracker.raiser: ConnectionError: injected"
    ]
    assert found.notices == []


def test_a_missing_package_is_told_without_asking_anybody(run: RunContext) -> None:
    found = ask_trackers([Lacking(), Ready()], run, strict=False)
    assert [problem.key for problem in found.problems] == ["tracker.lacking"]
    assert found.notices == []
