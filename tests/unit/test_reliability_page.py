"""Every test that the page on reliability names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:unit|integration|smoke)/test_\w+\.py)::(\w+)`", PAGE)))


def test_the_page_names_tests_for_its_promises() -> None:
    assert len(NAMED) >= 35
    for row in PAGE.splitlines():
        if row.startswith("| ") and not row.startswith(("| fault", "|---")):
            assert "::test_" in row or "no test of its own" in row, row


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_test_that_is_named_is_there(file: str, test: str) -> None:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert test in functions
