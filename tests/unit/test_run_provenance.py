"""What a run remembers of the command that started it, and what it must not remember."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from llmforge.run.provenance import provenance, redacted


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("tracker.wandb.api_key=abc", "tracker.wandb.api_key=***"),
        ("--set=tracker.wandb.api_key=abc", "--set=tracker.wandb.api_key=***"),
        ("--api-key=abc", "--api-key=***"),
        ("storage.url=s3://me:abc@host/x", "storage.url=s3://***@host/x"),
        ("optimizer.adamw.lr=1e-3", "optimizer.adamw.lr=1e-3"),
        ("generation.sampler.max_new_tokens=8", "generation.sampler.max_new_tokens=8"),
        ("tokenizer.name=bytes", "tokenizer.name=bytes"),
    ],
)
def test_secrets_of_a_command_line_are_not_kept(argument: str, shown: str) -> None:
    assert redacted(["forge", "train", argument]) == ["forge", "train", shown]


def test_the_argument_after_a_secret_flag_is_hidden_and_only_that_one() -> None:
    assert redacted(["--token", "abc", "--seed", "7"]) == ["--token", "***", "--seed", "7"]
    assert redacted(["--token", "--token", "x"]) == ["--token", "***", "x"]


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
