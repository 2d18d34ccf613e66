"""Mistakes of a user that only the machine or the data can tell: one message, nothing started."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from forge_process import Workplace, write_text

from llmforge.checkpoint import list_checkpoints


def refused(workplace: Workplace, *arguments: str, expect: int = 1) -> str:
    """Return what ``forge train`` says before it ends without having taken a step."""
    output = workplace.train_here(*arguments, expect=expect)
    assert "Traceback" not in output
    assert "step " not in output
    assert list_checkpoints(workplace.run.checkpoints) == []
    return output


@pytest.mark.parametrize(
    ("split", "content", "message"),
    [
        ("train", b"", "text, 2 files (train.txt, valid.txt): the train split has 0 tokens"),
        ("train", b"Too short.", "too few for one window of context 32"),
        ("valid", b"", "the validation split has 0 tokens: nothing to evaluate"),
        ("train", "caf\xe9 ".encode("latin-1") * 90, "train.txt is not utf-8 text"),
    ],
)
def test_text_that_cannot_be_trained_on(
    workplace: Workplace, split: str, content: bytes, message: str
) -> None:
    (workplace.path / f"{split}.txt").write_bytes(content)
    output = refused(dataclasses.replace(workplace, settings={"tokenizer.name": "bytes"}))
    assert message in output
    assert "data.text" in output  # where to mend it


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("train.device=cuda:99", 2, "train.device: 'cuda:99' is not available"),
        ("data.text.train=nowhere.txt", 2, "data.text.train: no file matches 'nowhere.txt'"),
        ("run.root=train.txt", 1, "train.txt/.locks/tiny.lock cannot be written"),
        ("tokenizer.name=hf", 2, "tokenizer.hf.source: a value is required"),
    ],
)
def test_what_the_recipe_asks_for_is_not_there(
    workplace: Workplace, setting: str, code: int, message: str
) -> None:
    assert message in refused(workplace, "--set", setting, expect=code)


def test_what_the_machine_lacks_is_told_before_data_are_prepared_also_by_a_dry_run(
    workplace: Workplace,
) -> None:
    keys = ("--set", "train.device=cuda:99", "--set", 'tracker.names=["wandb"]')
    lacking = dataclasses.replace(workplace, environment={"HOME": str(workplace.path)})
    for start in ((), ("--dry-run",)):
        output = refused(lacking, *keys, *start, expect=2)
        assert "train.device: 'cuda:99' is not available" in output
        assert "tracker.wandb: no W&B API key was found" in output
        assert "preparing data" not in output
        assert not (workplace.path / "cache" / "tokens").exists()
    assert "wandb: no W&B API key" in workplace.record["exit_reason"]
    assert "ready to train" in workplace.train_here("--dry-run")


def test_processes_that_cannot_share_the_batch_are_refused_by_a_dry_run(
    workplace: Workplace,
) -> None:
    assert "among 3 ranks" in refused(workplace, "--dry-run", "--nproc-per-node", "3", expect=2)
    assert "ready to train" in workplace.train_here("--dry-run", "--nproc-per-node", "2")


def test_a_warm_up_longer_than_the_epochs(workplace: Workplace) -> None:
    settings = {"train.epochs": "1", "schedule.cosine.warmup_steps": "5000"}
    output = refused(dataclasses.replace(workplace, settings=settings), expect=2)
    assert "schedule.cosine.warmup_steps: a warm-up of 5000 steps does not end before" in output


def test_a_tokenizer_file_that_is_damaged(workplace: Workplace) -> None:
    (workplace.path / "tokenizer.json").write_text("{")
    settings = {"tokenizer.name": "hf", "tokenizer.hf.source": "tokenizer.json"}
    output = refused(dataclasses.replace(workplace, settings=settings))
    assert "tokenizer.json cannot be read as a tokenizer" in output


def test_a_mended_mistake_is_not_another_run(workplace: Workplace) -> None:
    write_text(workplace.path / "other.txt", lines=30, seed=3)
    wrong = dataclasses.replace(workplace, settings={"data.text.validation": "none.txt"})
    refused(wrong, expect=2)
    empty = dataclasses.replace(workplace, settings={"data.text.validation": "empty.txt"})
    (workplace.path / "empty.txt").touch()
    refused(empty)  # by now a tokenizer was made

    mended = {
        "data.text.validation": "other.txt",
        "train.max_steps": "3",
        "tokenizer.name": "bytes",
    }
    output = dataclasses.replace(workplace, settings=mended).train_here()

    assert "tiny: completed (all 3 steps taken)" in output
    assert workplace.record["identity"]["keys"]["data.text.validation"] == "other.txt"
    assert json.loads((workplace.run.tokenizer / "forge.json").read_text())["type"] == "bytes"


def test_data_are_prepared_ahead_and_reported(workplace: Workplace) -> None:
    text = workplace.forge_here("data", "prepare", "recipe.toml", "-n", "50")
    assert "text, 2 files (train.txt, valid.txt), first 50 documents; fingerprint " in text
    assert f"cache {workplace.path / 'cache'}; vocabulary 320" in text
    report = json.loads(workplace.forge_here("data", "prepare", "recipe.toml", "--json"))
    split = report["splits"]["validation"]
    (path,) = split["paths"]
    assert Path(path).stat().st_size == split["size"] == 2 * split["tokens"]
    assert split["documents"] == 30
    assert not workplace.run.root.exists()
    assert report["fingerprint"] not in text.split()  # fewer documents are other data
