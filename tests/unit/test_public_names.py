"""What ``import llmforge`` offers."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import llmforge


def test_no_name_is_hidden_by_a_module_of_the_same_name() -> None:
    hidden = [
        name
        for name in llmforge.__all__
        if not isinstance(getattr(llmforge, name), ModuleType)
        and importlib.util.find_spec(f"llmforge.{name}") is not None
    ]
    assert hidden == []
