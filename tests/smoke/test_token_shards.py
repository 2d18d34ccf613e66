"""Training on tokenised shards: exact resume inside a shard, changed shards refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forge_process import Workplace

SETTINGS = {
    "tokenizer.name": "ids",
    "data.name": "tokens",
    "data.tokens.path": "shards",
    "data.tokens.vocab_size": "300",
    "data.tokens.eos_id": "0",
    "data.tokens.validation_fraction": "0.05",
    "generation.prompts": '["5 6"]',
}


def write_shards(directory: Path, *, count: int = 4) -> None:
    """Write ids that follow each other by a rule, in three layouts."""
    directory.mkdir()
    draw = np.random.default_rng(1)
    for index in range(count):
        ids = (np.cumsum(draw.integers(1, 3, 2500)) % 300).astype(np.uint16)
        if index % 3 == 0:
            np.save(directory / f"{index}.npy", ids)
        elif index % 3 == 1:
            ids.tofile(directory / f"{index}.bin")
        else:
            np.savez_compressed(directory / f"{index}.npz", tokens=ids)


@pytest.fixture
def sharded(tmp_path: Path) -> Workplace:
    """A place with four shards."""
    place = Workplace(tmp_path / "place", SETTINGS)
    write_shards(place.path / "shards")
    return place


def metadata(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself."""
    body: dict[str, Any] = json.loads((checkpoint / "metadata.json").read_text(encoding="utf-8"))
    return body


@pytest.mark.slow
def test_a_run_over_shards_goes_on_in_the_middle_of_one(sharded: Workplace, tmp_path: Path) -> None:
    straight = sharded.copy(tmp_path / "straight")
    straight.train_here()
    process = sharded.start()
    assert process.wait_for(lambda _: len(sharded.checkpoints) > 1)
    process.kill()
    sharded.train()

    assert sharded.result() == straight.result()
    first, last = straight.rows[0]["train/loss"], straight.rows[-1]["train/loss"]
    assert last < first - 1
    assert "val/bits_per_byte" not in straight.rows[-1]
    assert straight.rows[-1]["val/loss"] < first
    used = [metadata(checkpoint) for checkpoint in straight.checkpoints]
    assert {item["files"] for item in used} == {4}
    assert 0 < used[-1]["files_processed"] < 4  # 480 sequences of 294 an epoch
    assert used[-1]["file"].rpartition("/")[2] in {"0.npy", "1.bin", "2.npz", "3.npy"}
    copies = [path.suffix for path in (straight.path / "cache").rglob("*") if path.is_file()]
    assert copies.count(".npy") == 1  # the compressed shard
    assert ".bin" not in copies


def test_a_changed_shard_is_refused_by_name_unless_allowed(sharded: Workplace) -> None:
    sharded.train_here("--set", "train.stop_at=6")
    shard = sharded.path / "shards" / "1.bin"
    ids = np.fromfile(shard, np.uint16)
    ids[7] += 1
    ids.tofile(shard)

    output = sharded.train_here(expect=1)
    assert "shards changed since the run started" in output
    assert "1.bin" in output
    assert "--allow-data-change" in output
    sharded.train_here("--allow-data-change", "--set", "train.stop_at=7")
    assert sharded.record["step"] == 7


def test_what_is_trained_on_ids_reads_and_writes_ids(sharded: Workplace) -> None:
    sharded.train_here("--set", "train.max_steps=6")
    (sample,) = [json.loads(line) for line in sharded.run.samples.read_text().splitlines()]
    assert all(0 <= int(word) < 300 for word in sample["text"].split())
    output = sharded.forge_here("generate", "tiny", "--prompt", "9 10 11", "--max-new-tokens", "4")
    assert "9 10 11" in output
    assert "val/loss" in sharded.forge_here("evaluate", "tiny")
    refused = sharded.forge_here("generate", "tiny", "--prompt", "a river", expect=1)
    assert "is not a token id below 300" in refused


def test_prepare_says_where_the_shards_lie(sharded: Workplace) -> None:
    assignments = [part for key, text in SETTINGS.items() for part in ("--set", f"{key}={text}")]
    report = json.loads(
        sharded.forge_here("data", "prepare", "recipe.toml", *assignments, "--json")
    )
    train = report["splits"]["train"]
    assert train["tokens"] == 9500
    assert train["bytes"] is None
    assert [Path(path).parent.name for path in train["paths"]].count("shards") == 4
    output = sharded.forge_here("data", "prepare", "recipe.toml", *assignments)
    assert "9,500 tokens  text not known" in output
    assert "and 1 more" in output
