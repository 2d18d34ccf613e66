"""Rows of this machine: functions of Python's library with what they say, and instructions."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

from llmforge_plugins.data._instruct import SAMPLE

_MODULES = (
    "textwrap",
    "shlex",
    "fractions",
    "statistics",
    "heapq",
    "string",
    "calendar",
    "difflib",
)


def functions() -> Iterator[tuple[str, str]]:
    """Yield the first line of what a function of the library says of itself, and of its code."""
    for name in _MODULES:
        file = importlib.import_module(name).__file__
        assert file is not None
        source = Path(file).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and (said := ast.get_docstring(node)):
                code = ast.get_source_segment(source, node) or ""
                yield said.splitlines()[0], code.splitlines()[0][:80]


def instructions() -> Iterator[str]:
    """Yield the bundled instructions and answers as text."""
    for line in SAMPLE.read_text(encoding="utf-8").splitlines():
        yield "\n".join(map(str, json.loads(line).values()))
