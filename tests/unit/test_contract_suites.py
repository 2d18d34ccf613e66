"""Each contract suite finds the components that break it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from broken_components import CASES

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """The outcome of every case's decisive test, by the case's name."""
    chosen = [f"broken_components.py::{case}::{test}" for case, test in CASES.items()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", *chosen],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if "::" in line]
    found = {line[1].split("::")[1]: line[0] for line in lines if len(line) == 2}
    assert set(found) == set(CASES), done.stdout + done.stderr
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_broken_component_is_caught_by_the_test_meant_for_it(
    outcomes: dict[str, str], case: str
) -> None:
    assert outcomes[case] == "FAILED"
