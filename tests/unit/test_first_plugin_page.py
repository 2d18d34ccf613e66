"""The first plugin of the docs is what `forge plugins new` expects, and passes its own tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from llmforge.cli.scaffold import write_package

PAGE = Path(__file__).parents[2] / "docs" / "get-started" / "first-plugin.md"
CODE = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_code_of_the_page_works_in_a_new_package(tmp_path: Path) -> None:
    write_package("budget", kind="callback", parent=tmp_path)
    package = tmp_path / "llmforge-budget"
    component, tests = CODE
    (package / "src/llmforge_budget/callback.py").write_text(component, encoding="utf-8")
    (package / "tests/test_callback.py").write_text(tests, encoding="utf-8")
    project = (package / "pyproject.toml").read_text(encoding="utf-8")
    target = re.search(r'"(llmforge_budget\.callback):(\w+)"', project)
    assert target is not None
    assert f"class {target[2]}(Component" in component
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=package,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
