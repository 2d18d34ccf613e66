"""The notebook page's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "notebook.md"


def test_notebook_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmforge.settings import settings

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORGE_OFFLINE", "1")
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FORGE_RUN_ROOT", raising=False)
    settings.cache_clear()
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    settings.cache_clear()
    assert names["result"].state == "completed"  # type: ignore[attr-defined]
    assert names["losses"]
    assert (tmp_path / "runs").is_dir()
