"""Code on the pages of the documentation is run, or held to the code it is taken from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from llmforge.recipe import load_recipe
from llmforge.recipe.schema import CORE_TABLES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

TESTED_BY = {
    "README.md": "tests/smoke/test_python_pages.py",
    "get-started/first-plugin.md": "tests/unit/test_first_plugin_page.py",
    "how-to/notebook.md": "tests/smoke/test_python_pages.py",
    "how-to/sweep.md": "tests/smoke/test_python_pages.py",
    "how-to/own-model.md": "tests/unit/test_documented_code.py",
    "how-to/write-a-plugin.md": "tests/unit/test_documented_code.py",
    "reference/hooks.md": "tests/unit/test_hooks_documented.py",
}
"""The test that runs the Python of each page that has some."""


def blocks(language: str, page: str | None = None) -> list[tuple[str, str]]:
    """Return (page, code) of every block of a language, on one page or all."""
    pages = [DOCS / page] if page else [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    return [
        (str(path.relative_to(DOCS)) if path.is_relative_to(DOCS) else path.name, code)
        for path in pages
        for code in re.findall(
            rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S
        )
    ]


def test_every_page_with_python_has_a_test_that_runs_it() -> None:
    assert {page for page, _ in blocks("python")} == set(TESTED_BY)
    for page, test in TESTED_BY.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def of_a_recipe(document: dict[str, Any]) -> bool:
    """Return whether a document is a part of a recipe, and not of a ``pyproject.toml``."""
    return "project" not in document


@pytest.mark.parametrize(("page", "code"), blocks("toml"))
def test_toml_is_what_a_recipe_takes(
    page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tomllib.loads(code)
    if not of_a_recipe(document):
        assert set(document["project"]) <= {"entry-points", "name", "dependencies"}
        return
    if page == "get-started/first-plugin.md":
        return  # its plugin is installed by the test of that page only
    base = "wikitext_tiny_sweep" if "sweep" in document else "wikitext_tiny"
    if "space" in document.get("sweep", {}):
        base = "wikitext_tiny"
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "recipe.toml"
    file.write_text(code if "extends" in document else f'extends = "{base}"\n{code}')
    recipe = load_recipe(file)
    for table in document.keys() - {"extends", "profile"}:
        assert table in CORE_TABLES or table in recipe.selections, table


def test_a_key_that_no_recipe_has_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Exception, match="optimzer"):
        test_toml_is_what_a_recipe_takes(
            "page.md", '[optimzer]\nname = "adamw"\n', tmp_path, monkeypatch
        )


def test_the_loss_of_an_own_model_is_a_sum_and_a_count() -> None:
    import torch

    from llmforge.interfaces import IGNORE_INDEX

    ((_, code),) = blocks("python", "how-to/own-model.md")
    scope: dict[str, Any] = {"torch": torch, "IGNORE_INDEX": IGNORE_INDEX}
    exec(code, scope)
    targets = torch.tensor([[1, 2, IGNORE_INDEX]])
    batch = {"input_ids": torch.zeros(1, 3, dtype=torch.long), "targets": targets}
    total, count = scope["loss"](lambda ids: torch.zeros(*ids.shape, 8), batch)
    assert int(count) == 2
    assert float(total) == pytest.approx(2 * torch.log(torch.tensor(8.0)).item())


def plugin_page(containing: str) -> str:
    """Return the one block of the page on plugins that has a text."""
    (found,) = [
        code for _, code in blocks("python", "how-to/write-a-plugin.md") if containing in code
    ]
    return found


def test_the_example_of_progress_runs() -> None:
    exec(plugin_page("task.advance"), {"size": 3, "blocks": [b"ab", b"c"]})


def test_the_examples_of_components_are_those_that_users_get() -> None:
    sources = [
        ROOT / "llmforge/cli/templates/backend/component.py.tmpl",
        ROOT / "examples/llmforge-hello/src/llmforge_hello/model.py",
        ROOT / "examples/llmforge-hello/tests/test_model.py",
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    shown = {
        "forge_build_model": "from llmforge_hello._mingru import MinGruModel",
        "forge_build_backend": 'llmforge.load_component("backend", "single")',
        "ModelContract": 'options: ClassVar = {"context": 16, "layers": 2, "width": 16}',
    }
    for example, line in shown.items():
        code = plugin_page(example)
        compile(code, "write-a-plugin.md", "exec")
        assert line in code
        assert line in text
