"""What plugin authors test their components with: contract suites, stand-ins and a run context.

Subclass the contract of your kind in a test module and pytest collects its tests::

    from llmforge.testing import TrackerContract
    from my_package.tracker import Mine

    class TestMine(TrackerContract):
        component = Mine

The fixtures ``forge_run_context``, ``forge_recipe`` and ``forge_cli`` come from
:mod:`llmforge.testing.plugin`, which pytest loads by itself once llmforge is installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmforge.testing.context import make_component, run_context

_HOMES = {
    "make_component": "llmforge.testing.context",
    "run_context": "llmforge.testing.context",
}

__all__ = [
    "make_component",
    "run_context",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'llmforge.testing' has no attribute '{name}'")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
