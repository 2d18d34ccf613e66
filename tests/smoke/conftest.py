"""Experiments whose undisturbed result several tests compare with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from forge_process import Workplace

Reference = Callable[[str], dict[str, str]]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return a function from a precision to the result of a run that nothing disturbed."""
    known: dict[str, dict[str, str]] = {}

    def result(precision: str) -> dict[str, str]:
        if precision not in known:
            workplace = Workplace(
                tmp_path_factory.mktemp(f"reference-{precision}"), {"train.precision": precision}
            )
            workplace.train()
            known[precision] = workplace.result()
        return known[precision]

    return result


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """A fresh place to train in."""
    return Workplace(tmp_path / "place")
