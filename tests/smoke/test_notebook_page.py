"""The notebook page's code runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "notebook.md"


def test_notebook_page_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    checks = "assert result.state == 'completed'\nassert losses\n"
    environment = {**os.environ, "FORGE_OFFLINE": "1", "FORGE_CACHE": str(tmp_path / "cache")}
    environment.pop("FORGE_RUN_ROOT", None)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, checks])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs").is_dir()
