"""The Python on every page of the documentation runs, page by page, as a reader would type it."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doc_pages import ROOT, Block, blocks
from torch.nn import Embedding

from llmforge.testing import TinyModel

PYTHON = {page: list(group) for page, group in groupby(blocks("python"), lambda item: item.page)}

OURS = {"llmforge", "llmforge_hello"}

RUN_ELSEWHERE: Mapping[str, str] = {
    "docs/get-started/first-plugin.md": "tests/unit/test_first_plugin_page.py",
    "docs/how-to/deploy.md": "tests/smoke/test_deploy.py",
    "docs/how-to/notebook.md": "tests/smoke/test_python_pages.py",
    "docs/how-to/export.md": "tests/smoke/test_export_page.py",
    "docs/how-to/serve-and-chat.md": "tests/integration/test_serve_api.py",
    "docs/how-to/sweep.md": "tests/smoke/test_python_pages.py",
    "README.md": "tests/smoke/test_python_pages.py",
}
"""Pages whose code makes a package or trains: a test of their own runs it."""

GIVEN: Mapping[str, Mapping[str, Any]] = {
    "docs/how-to/write-a-plugin.md": {"blocks": [b"some ", b"bytes"], "size": 10},
    "docs/reference/hooks.md": {"Path": Path},
}
"""What the reader of a page is taken to have already."""


def _the_loss_is_a_sum_and_a_count(scope: dict[str, Any]) -> None:
    model = type("Bigrams", (Embedding,), {"loss": scope["loss"]})(5, 5)
    targets = torch.tensor([[1, 2, scope["IGNORE_INDEX"]]])
    total, count = model.loss({"input_ids": torch.tensor([[0, 1, 2]]), "targets": targets})
    assert int(count) == 2
    expected = torch.nn.functional.cross_entropy(model.weight[:2], targets[0, :2], reduction="sum")
    assert torch.allclose(total, expected)


def _every_answer_counts_the_same(scope: dict[str, Any]) -> None:
    objective = scope["AnswersAlike"]()
    rows = [(np.arange(5), np.array([0, 0, 1, 1, 1])), (np.arange(3), np.array([0, 0, 1]))]
    arrays = objective.batch(rows, context=16, seeds=[0, 0])
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model = TinyModel()
    total, count = objective.loss(model, batch)
    assert int(count) == int(objective.targets(np.array([3, 1])).sum()) == 2
    scores, _ = model.sequence_log_probs(batch)
    assert torch.allclose(total, -scores[0] / 3 - scores[1])


AFTERWARDS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "docs/how-to/own-model.md": _the_loss_is_a_sum_and_a_count,
    "docs/how-to/preference-tuning.md": _every_answer_counts_the_same,
}
"""What must hold of the names that a page has defined."""


def run_page(code: list[Block], scope: dict[str, Any]) -> dict[str, Any]:
    """Run a page's blocks one after the other in one scope; errors carry the page's lines."""
    for block in code:
        text = "\n" * (block.line - 1) + block.text
        exec(compile(text, str(ROOT / block.page), "exec"), scope)
    return scope


def unknown_names_and_calls(text: str) -> list[str]:
    """Return what is wrong with the imports of code and with its calls of what it imports."""
    wrong, known = [], {}
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if hasattr(module, alias.name):
                    known[alias.asname or alias.name] = getattr(module, alias.name)
                else:
                    wrong.append(f"{node.module} has no {alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            keywords = {item.arg: None for item in node.keywords if item.arg}
            try:
                inspect.signature(known[node.func.id]).bind(*node.args, **keywords)
            except TypeError as error:
                wrong.append(f"{node.func.id}: {error}")
    return wrong


@pytest.mark.parametrize("page", [page for page in PYTHON if page not in RUN_ELSEWHERE])
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples" / "llmforge-hello" / "src")
    name = "documented_page"
    module = type(sys)(name)
    monkeypatch.setitem(sys.modules, name, module)
    scope = module.__dict__
    scope.update(GIVEN.get(page, {}))
    run_page(PYTHON[page], scope)
    AFTERWARDS.get(page, lambda _: None)(scope)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_what_is_imported_exists_and_takes_the_arguments(
    block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples" / "llmforge-hello" / "src")
    assert unknown_names_and_calls(block.text) == []


@pytest.mark.parametrize(("page", "test"), RUN_ELSEWHERE.items())
def test_a_page_that_is_run_elsewhere_is_named_there(page: str, test: str) -> None:
    assert page in PYTHON
    assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_there_is_code_and_every_exception_is_a_page_that_has_some() -> None:
    assert len(PYTHON) >= 6
    assert set(PYTHON) >= {*RUN_ELSEWHERE, *GIVEN, *AFTERWARDS}


def test_code_that_fails_is_noticed_with_its_page_and_line() -> None:
    broken = Block(page="docs/index.md", line=7, language="python", text="x = 1\nnot_there(x)\n")
    with pytest.raises(NameError) as failed:
        run_page([broken], {})
    assert failed.traceback[-1].lineno == 7  # counted from 0
    assert unknown_names_and_calls("from llmforge import nothing") == ["llmforge has no nothing"]
    (wrong,) = unknown_names_and_calls("from llmforge import train\ntrain('a', profil='b')")
    assert "profil" in wrong
