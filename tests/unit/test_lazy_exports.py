"""Packages whose names load when they are used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import llmforge

PACKAGES = (
    "llmforge",
    "llmforge.checkpoint",
    "llmforge.courier",
    "llmforge.courier.notifications",
    "llmforge.interfaces",
    "llmforge.recipe",
    "llmforge.testing",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_where_it_is_said_to_be(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = importlib.import_module(package).nothing


def test_a_name_is_loaded_once() -> None:
    vars(llmforge).pop("Options", None)
    options = llmforge.Options
    assert vars(llmforge)["Options"] is options


@pytest.mark.parametrize("module", ["llmforge.cli.run_views", "llmforge.insight.runs_index"])
def test_looking_at_runs_loads_nothing_that_checks_recipes(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in sys.modules if 'pydantic' in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
