"""The shipped large-model recipe in its profile for a laptop: shards from, uploads to a GCS."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from forge_process import Workplace
from servers import Server
from storage_parts import assert_all_committed, committed, lose_machine, remote, steps

from llmforge_plugins.data import _remote

VOCABULARY = (
    512  # the recipe's own 50,257 make checkpoints of 330 MB, which take an emulator minutes
)

RECIPE = """\
extends = "neox_1_2b"
[run]
id = "tiny"
"""


def upload_shards(url: str) -> None:
    """Write shards of ids that follow each other by a rule, as any other program would."""
    filesystem, path = _remote._open(url)
    draw = np.random.default_rng(1)
    for name in ("train/0.npy", "train/1.npy", "train/2.npy", "validation/0.npy"):
        ids = (np.cumsum(draw.integers(1, 3, 5000)) % VOCABULARY).astype(np.uint16)
        content = io.BytesIO()
        np.save(content, ids)
        filesystem.pipe_file(f"{path}/tokens/{name}", content.getvalue())


def workplace(path: Path, gcs: Server, url: str, *, runs: str) -> Workplace:
    """Return a place that trains the recipe on the shards at ``url``."""
    settings = {
        "data.tokens.train": f'"{url}/tokens/train/"',
        "data.tokens.validation": f'"{url}/tokens/validation/"',
        "data.tokens.vocab_size": str(VOCABULARY),
        "data.tokens.eos_id": "0",
        "generation.prompts": '["5 6"]',
        "storage.url": f'"{url}/{runs}"',
        # The emulator takes the last line end off what is sent in one request.
        "storage.gcs.part_size": "262144",
    }
    environment = {"STORAGE_EMULATOR_HOST": gcs.url, "FORGE_OFFLINE": "0"}
    return Workplace(path, settings, environment, recipe=RECIPE)


def test_the_smoke_profile_trains_from_and_to_gcs_and_goes_on_elsewhere(
    tmp_path: Path, gcs: Server, gcs_url: str
) -> None:
    upload_shards(gcs_url)
    straight = workplace(tmp_path / "a", gcs, gcs_url, runs="straight")
    output = straight.train_here("--profile", "smoke")
    assert f"storage: everything is in {gcs_url}/straight/tiny/attempt-00001" in output
    commits = assert_all_committed(straight, remote(f"{gcs_url}/straight"))
    assert {commit.archive for commit in commits.values()} == {"tar.gz"}
    assert sorted(commits) == steps(straight.checkpoints) == [4, 8, 12]
    sizes = straight.record["resolved"]
    assert sizes["micro_batch_size"] == 2
    told = json.loads((straight.checkpoints[-1] / "metadata.json").read_text(encoding="utf-8"))
    assert told["files"] == 2

    killed = workplace(tmp_path / "b", gcs, gcs_url, runs="killed")
    # so that the first checkpoint is in storage long before the last step
    process = killed.start("--profile", "smoke", "--set", "storage.background=false")
    assert process.wait_for(committed(killed, least=1))
    process.kill()
    lose_machine(killed)
    killed.train_here("--profile", "smoke")
    assert killed.result() == straight.result()
