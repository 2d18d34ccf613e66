"""What a run remembers of the command that started it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from llmforge.run.setup.provenance import provenance


def test_a_changed_file_of_the_repository_is_told_with_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", "code.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
    monkeypatch.chdir(tmp_path)
    assert provenance()["git"]["changed"] == {}
    (tmp_path / "code.py").write_text("a = 2\n")
    found = provenance()["git"]
    assert list(found["changed"]) == ["code.py"]
    assert len(found["commit"]) == 40


def test_without_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = provenance(["no-such-distribution"])
    assert found["git"] == {}
    assert "no-such-distribution" not in found["packages"]
    assert "torch" in found["packages"]
