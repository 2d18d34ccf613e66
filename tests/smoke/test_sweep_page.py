"""The Python on the page about sweeps runs as it stands, on a sweep that is made small."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import llmforge

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "sweep.md"
SMALL = {"sweep.max_trials": 2, "train.max_steps": 4, "eval.every": 2, "checkpoint.every": 2}


def test_sweep_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = llmforge.sweep

    def small(recipe: str, *, overrides: dict[str, Any], workers: int) -> llmforge.SweepResult:
        return whole(recipe, overrides={**overrides, **SMALL}, workers=workers)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORGE_OFFLINE", "1")
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FORGE_RUN_ROOT", raising=False)
    monkeypatch.setattr(llmforge, "sweep", small)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(compile(code, PAGE, "exec"), scope)
    assert [trial["state"] for trial in scope["found"].trials] == ["completed", "completed"]
    assert sum(item.numel() for item in scope["model"].parameters()) > 0
