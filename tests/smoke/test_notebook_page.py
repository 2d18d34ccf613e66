"""The notebook page's code runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "notebook.md"
CHECKS = """
assert result.state == "completed"
assert losses
again = train(
    "wikitext_tiny", profile="test", overrides={"data.wikitext.offline_sample": True}
)
assert again.skipped
assert again.metrics == result.metrics
assert again.samples == result.samples
result.run.directory.summary.unlink()
assert train("wikitext_tiny", profile="test").metrics["val/loss"] == result.metrics["val/loss"]
"""


def test_notebook_page_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    environment = {**os.environ, "FORGE_OFFLINE": "1", "FORGE_CACHE": str(tmp_path / "cache")}
    environment.pop("FORGE_RUN_ROOT", None)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, CHECKS])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs").is_dir()
