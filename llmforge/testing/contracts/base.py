"""What every contract shares: how the component is made, and what holds for any kind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmforge.component import Component
from llmforge.interfaces import RunContext
from llmforge.plugins import build_manager, call_factory
from llmforge.testing.context import make_component, run_context

HEAVY = (
    "torch",
    "numpy",
    "tokenizers",
    "transformers",
    "tensorboard",
    "matplotlib",
    "mlflow",
    "sacrebleu",
    "rouge_score",
    "sklearn",
    "codebleu",
    "pandas",
    "wandb",
)


def build(component: Component, hook: str, **arguments: Any) -> Any:
    """Return what ``component`` builds, asked through pluggy as the core asks."""
    return call_factory(build_manager([component]), hook, **arguments)


class Contract:
    """Base of the contract suites; subclass the one of your kind.

    A test that cannot hold for a component by design is taken out by setting its name to None in
    the subclass, with a comment that says why.

    Attributes:
        component: the class under test.
        options: its option table, as a recipe would give it.
    """

    component: ClassVar[type[Component]]
    options: ClassVar[Mapping[str, Any]] = {}

    def make_options(self, directory: Path) -> Mapping[str, Any]:
        """Return the option table; override it when options name files, made in ``directory``."""
        del directory
        return self.options

    @pytest.fixture
    def plugin(self, tmp_path: Path) -> Component:
        """The component with its options."""
        return make_component(self.component, self.make_options(tmp_path))

    @pytest.fixture
    def run(self, tmp_path: Path) -> RunContext:
        """The run that the component works for."""
        return run_context(tmp_path)

    def test_its_hooks_exist_and_take_the_arguments_they_name(self, plugin: Component) -> None:
        build_manager([plugin])

    def test_every_option_is_documented(self, plugin: Component) -> None:
        fields = type(plugin).Options.model_fields
        undocumented = [name for name, field in fields.items() if not field.description]
        assert not undocumented, f"write a docstring below {', '.join(undocumented)}"

    def test_what_it_requires_is_installed_where_it_is_tested(self, plugin: Component) -> None:
        assert plugin.missing_packages() == []

    def test_its_module_imports_no_heavy_package(self, plugin: Component) -> None:
        code = (
            f"import sys, {type(plugin).__module__}\n"
            f"sys.exit(', '.join(sorted(set({HEAVY!r}) & set(sys.modules))) or 0)"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"importing the module fails or imports {done.stderr}"
