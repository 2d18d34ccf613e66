"""Who may import whom, and what importing a component must not drag in."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from import_rules import ROOT, imports, sources, violations

from llmforge.installed import DISTRIBUTION
from llmforge.plugins import listed

HEAVY = ("torch", "numpy", "tokenizers", "tensorboard", "matplotlib", "transformers", "fsspec")


def test_the_code_keeps_the_import_rules() -> None:
    assert violations(sources()) == []


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        (
            "llmforge.rundir.x",
            "import llmforge.run.training.loop",
            "imports llmforge.run.training.loop, which is",
        ),
        (
            "llmforge.run.reporting.x",
            "import llmforge.run.training.loop",
            "imports llmforge.run.training.loop, which is of a later stage",
        ),
        (
            "llmforge_plugins.sweep._optuna",
            "import llmforge_plugins.sweep.optuna",
            "imports llmforge_plugins.sweep.optuna, whose heavy half it is",
        ),
        ("llmforge.rundir.x", "from llmforge.cli import app", "imports llmforge.cli.app, which is"),
        ("llmforge.recipe.x", "from llmforge import events", "imports llmforge.events, which is"),
        ("llmforge.recipe.x", "def f():\n    import llmforge.run", "imports llmforge.run, which"),
        ("llmforge.run.x", "import llmforge_plugins.models", "imports the plugin"),
        ("llmforge.run.x", "from llmforge import Component", "imports from llmforge itself"),
        ("llmforge.novelty", "", "has no layer"),
        ("llmforge.run.utils", "", "named after its subject"),
        ("llmforge.cli.x", "from click import echo", "imports click"),
        ("llmforge_plugins.data.x", "import click", "imports click"),
        ("llmforge_plugins.data.x", "import llmforge.plugins", "which is not public"),
        ("llmforge_plugins.data.x", "from llmforge.recipe.schema import X", "is not public"),
        ("llmforge_plugins.data.x", "from llmforge import plugins", "which is not public"),
        ("llmforge_plugins.data.x", "import llmforge_plugins.models.y", "of another kind"),
        ("llmforge_plugins._x", "import llmforge_plugins.models.y", "of another kind"),
    ],
)
def test_each_breach_is_found(module: str, source: str, breach: str) -> None:
    known = {**sources(), module: source}
    (found,) = [item for item in violations(known) if item.startswith(f"{module}: ")]
    assert breach in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("llmforge.rundir.x", "import torch, llmforge.errors"),
        ("llmforge.run.x", "from llmforge import __version__, plugins"),
        (
            "llmforge.rundir.x",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import llmforge.run",
        ),
        ("llmforge_plugins.data.x", "from llmforge import Component, events"),
        ("llmforge_plugins.data.x", "import llmforge_plugins._hub, llmforge_plugins.data._files"),
    ],
)
def test_what_is_allowed_is_not_a_breach(module: str, source: str) -> None:
    known = {**sources(), module: source}
    assert [item for item in violations(known) if item.startswith(f"{module}: ")] == []


@pytest.mark.parametrize("lazily", [False, True])
def test_a_cycle_is_found_even_through_a_function(lazily: bool) -> None:
    back = "def f():\n    import llmforge.run.a" if lazily else "import llmforge.run.a"
    known = {"llmforge.run.a": "from llmforge.run import b", "llmforge.run.b": back}
    assert violations(known) == ["cycle: llmforge.run.a > llmforge.run.b > llmforge.run.a"]


def test_a_cycle_through_a_package_is_found() -> None:
    known = {
        "llmforge.data.__init__": "import llmforge.data.x",
        "llmforge.data.x": "import llmforge.courier.y",
        "llmforge.courier.__init__": "",
        "llmforge.courier.y": "import llmforge.data.z",
        "llmforge.data.z": "",
    }
    assert any("llmforge.data.__init__" in cycle for cycle in violations(known))


def test_the_plugins_are_among_the_modules_that_are_read() -> None:
    known = sources()
    assert "llmforge.plugins" in known
    assert "llmforge_plugins.models.transformer" in known
    assert "llmforge.interfaces.model" in imports(known["llmforge.interfaces.__init__"], known)


def test_no_file_of_the_repository_imports_click() -> None:
    paths = [path for part in ("tests", "examples", "benchmarks") for path in _files(part)]
    assert paths
    for path in paths:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = [
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        ]
        names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.split(".")[0] == "click"], path


def _files(part: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in sorted((ROOT / part).rglob("*.py"))]


@pytest.mark.parametrize(
    "modules",
    [
        sorted(
            {entry.target.split(":")[0] for entry in listed() if entry.distribution == DISTRIBUTION}
        ),
        ["llmforge"],
        ["llmforge.cli.app"],
        ["llmforge.recipe.load", "llmforge.rundir", "llmforge.plugins"],
        ["llmforge.testing", "llmforge.testing.plugin"],
    ],
    ids=["components", "package", "command line", "recipes and runs", "pytest plugin"],
)
def test_importing_it_loads_no_heavy_package(modules: list[str]) -> None:
    assert modules
    code = f"import sys, {', '.join(modules)}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_only_components_over_hugging_face_models_import_transformers() -> None:
    known = sources()
    graph = {name: imports(source, known) for name, source in known.items()}
    using = {
        name
        for name, targets in graph.items()
        if "transformers" in {target.split(".")[0] for target in targets}
    }
    halves = {name.rpartition(".")[2] for name in using}
    assert {"_hf_load", "_hf_cache", "_from_model"} <= halves
    assert all(half.startswith("_") for half in halves)
    for name, targets in graph.items():
        component = name.rpartition(".")[2]
        if targets & using and not component.startswith("_"):
            assert component.startswith("hf_") or component == "from_model", name
