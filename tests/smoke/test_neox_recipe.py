"""The shipped large-model recipe in its profile for a laptop: shards from, uploads to a GCS."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from forge_process import Workplace
from servers import Server
from storage_parts import assert_all_committed, committed, lose_machine, remote, steps

from llmforge_plugins.data import _remote

PART_SIZES = {512: 1 << 18, 50_257: 1 << 25}
"""Bytes of an upload's requests by vocabulary: the emulator takes the last line end off an archive
that is sent in one request, and appends each part to a copy of those before."""

RECIPE = """\
extends = "neox_1_2b"
[run]
id = "tiny"
"""


def upload_shards(url: str, *, vocabulary: int) -> None:
    """Write shards of ids that follow each other by a rule, as any other program would."""
    filesystem, path = _remote._open(url)
    draw = np.random.default_rng(1)
    for name in ("train/0.npy", "train/1.npy", "train/2.npy", "validation/0.npy"):
        ids = (np.cumsum(draw.integers(1, 3, 5000)) % vocabulary).astype(np.uint16)
        content = io.BytesIO()
        np.save(content, ids)
        filesystem.pipe_file(f"{path}/tokens/{name}", content.getvalue())


def workplace(path: Path, gcs: Server, url: str, *, runs: str, vocabulary: int) -> Workplace:
    """Return a place that trains the recipe on the shards at ``url``."""
    settings = {
        "data.tokens.train": f'"{url}/tokens/train/"',
        "data.tokens.validation": f'"{url}/tokens/validation/"',
        "data.tokens.vocab_size": str(vocabulary),
        "data.tokens.eos_id": "0",
        "generation.prompts": '["5 6"]',
        "storage.url": f'"{url}/{runs}"',
        "storage.gcs.part_size": str(PART_SIZES[vocabulary]),
    }
    environment = {"STORAGE_EMULATOR_HOST": gcs.url, "FORGE_OFFLINE": "0"}
    return Workplace(path, settings, environment, recipe=RECIPE)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("vocabulary", [512, pytest.param(50_257, marks=pytest.mark.slow)])
def test_the_smoke_profile_trains_from_and_to_gcs_and_goes_on_elsewhere(
    tmp_path: Path, gcs: Server, gcs_url: str, vocabulary: int
) -> None:
    upload_shards(gcs_url, vocabulary=vocabulary)
    straight = workplace(tmp_path / "a", gcs, gcs_url, runs="straight", vocabulary=vocabulary)
    output = straight.train_here("--profile", "smoke")
    assert f"storage: everything is in {gcs_url}/straight/tiny/attempt-00001" in output
    commits = assert_all_committed(straight, remote(f"{gcs_url}/straight"))
    assert {commit.archive for commit in commits.values()} == {"tar.gz"}
    assert sorted(commits) == steps(straight.checkpoints) == [4, 8, 12]
    sizes = straight.record["resolved"]
    assert sizes["micro_batch_size"] == 2
    told = json.loads((straight.checkpoints[-1] / "metadata.json").read_text(encoding="utf-8"))
    assert told["files"] == 2

    killed = workplace(tmp_path / "b", gcs, gcs_url, runs="killed", vocabulary=vocabulary)
    # so that the first checkpoint is in storage long before the last step
    process = killed.start("--profile", "smoke", "--set", "storage.background=false")
    assert process.wait_for(committed(killed, least=1))
    process.kill()
    lose_machine(killed)
    killed.train_here("--profile", "smoke")
    assert killed.result() == straight.result()
