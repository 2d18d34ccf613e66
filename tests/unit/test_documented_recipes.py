"""The TOML on every page of the documentation is a recipe, or a part of one that fits a recipe."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from doc_pages import DOCS, Block, blocks

from llmforge import plugins
from llmforge.component import KINDS
from llmforge.errors import RecipeError
from llmforge.installed import COMMANDS_GROUP
from llmforge.recipe import load_recipe, run_id
from llmforge.recipe.resolved import Recipe

BASES: Mapping[str, str] = {
    "docs/how-to/large-models.md": "neox_1_2b",
    "docs/how-to/metrics-and-tests.md": "alpaca_custom_tiny",
}
"""The shipped recipe that a page's parts are of, where it is not the first one of all."""

FIRST = "wikitext_tiny"
TOML = blocks("toml")
ENTRY_POINTS = [block for block in TOML if "[project.entry-points" in block.text]
RECIPES = [block for block in TOML if block not in ENTRY_POINTS]
RUN_ID = re.compile(r"single_bs16_cw128_lr2e-03-[0-9a-f]{6}")
PLUGIN_PAGE = DOCS / "get-started" / "first-plugin.md"


def load_block(block: Block, directory: Path) -> Recipe:
    """Load a block as a reader would: as it is, or as the end of a file that extends a recipe."""
    tables = tomllib.loads(block.text)
    base = BASES.get(block.page, FIRST)
    if list(tables.get("sweep", ())) == ["study"]:
        base = "wikitext_tiny_sweep"
    head = "" if "extends" in tables else f'extends = "{base}"\n'
    path = directory / "my.toml"
    path.write_text(head + block.text, encoding="utf-8")
    return load_recipe(path)


@pytest.fixture
def first_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package that *The first plugin* builds is installed."""
    site = tmp_path / "site"
    package, metadata = site / "llmforge_budget", site / "llmforge_budget-1.0.dist-info"
    package.mkdir(parents=True)
    metadata.mkdir()
    component = re.findall(r"```python\n(.*?)```", PLUGIN_PAGE.read_text("utf-8"), re.DOTALL)[0]
    (package / "__init__.py").touch()
    (package / "callback.py").write_text(component, encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: llmforge-budget\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[llmforge.callbacks]\nbudget = llmforge_budget.callback:BudgetCallback\n"
    )
    monkeypatch.delenv("FORGE_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(site)
    plugins.refresh()
    yield
    monkeypatch.undo()
    plugins.refresh()
    for name in ("llmforge_budget.callback", "llmforge_budget"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("block", RECIPES, ids=str)
def test_a_recipe_is_valid(
    block: Block, tmp_path: Path, first_plugin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load_block(block, tmp_path)


@pytest.mark.parametrize("block", ENTRY_POINTS, ids=str)
def test_entry_points_are_in_groups_that_llmforge_reads(block: Block) -> None:
    groups = tomllib.loads(block.text)["project"]["entry-points"]
    assert set(groups) <= {COMMANDS_GROUP, *(kind.group for kind in KINDS.values())}


def test_the_runs_that_pages_show_have_the_ids_their_recipes_give() -> None:
    shown = {
        path.relative_to(DOCS).as_posix(): set(RUN_ID.findall(path.read_text(encoding="utf-8")))
        for path in [*DOCS.rglob("*.md"), *DOCS.rglob("captured/*.txt")]
        if path.name != "budget.txt"  # a run of another recipe
    }
    expected = run_id(load_recipe(FIRST))
    assert {name for name, ids in shown.items() if ids - {expected}} == set()
    assert expected in shown["captured/train.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nbatchsize = 4\n", "batch_size"),
        ('[optimizer]\nname = "adam"\n', "adamw"),
        ("[storage.s3]\nendpoint = 3\n", "endpoint"),
    ],
)
def test_a_recipe_that_is_wrong_is_noticed(text: str, message: str, tmp_path: Path) -> None:
    block = Block(page="docs/index.md", line=1, language="toml", text=text)
    with pytest.raises(RecipeError, match=message):
        load_block(block, tmp_path)


def test_no_page_has_lost_its_recipes() -> None:
    assert len(RECIPES) >= 18
    assert set(BASES) <= {block.page for block in RECIPES}
