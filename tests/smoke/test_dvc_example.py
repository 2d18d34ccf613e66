"""The pipeline for DVC: its stages read and write what they declare, in order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "dvc"


def named(entries: list[Any]) -> Iterator[str]:
    """Yield the paths of entries, which are a name or a name with settings."""
    for entry in entries:
        yield entry if isinstance(entry, str) else next(iter(entry))


@pytest.mark.slow
def test_every_stage_reads_and_writes_what_it_declares(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    stages = yaml.safe_load((tmp_path / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert list(stages) == ["train", "evaluate", "export"]
    for stage in stages.values():
        missing = [name for name in stage["deps"] if not (tmp_path / name).exists()]
        assert missing == []
        written = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
        assert not any((tmp_path / name).exists() for name in named(written))
        done = subprocess.run(
            stage["cmd"],
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": tools},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert all((tmp_path / name).exists() for name in named(written))
