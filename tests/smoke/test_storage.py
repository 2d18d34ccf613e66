"""A run is mirrored while it trains: all that is kept here is there, equal, under its names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import Workplace
from servers import Server, make_s3_bucket
from storage_parts import (
    CREDENTIALS,
    as_json,
    assert_all_committed,
    hashes,
    records,
    remote,
    steps,
    stored_at,
)

URL = "s3://mirrored/runs"


@pytest.fixture(scope="module")
def mirrored(_s3: Server, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A completed run, mirrored to an S3 server; not to be changed."""
    make_s3_bucket(_s3, "mirrored")
    workplace = Workplace(
        tmp_path_factory.mktemp("mirrored"),
        {
            **stored_at(URL),
            "storage.s3.endpoint_url": json.dumps(_s3.url),
            "checkpoint.every": "6",
            "generation.every": "20",
        },
        CREDENTIALS,
    )
    output = workplace.train().output
    assert f"storage: everything is in {URL}/tiny/attempt-00001" in output
    assert "did not answer" not in output
    return workplace


def test_every_checkpoint_that_is_kept_is_committed_and_equal(
    mirrored: Workplace, s3: Server
) -> None:
    commits = assert_all_committed(mirrored, remote(URL))
    newest = steps(mirrored.checkpoints)[-1]
    assert newest == 60
    assert commits[newest].is_best
    assert commits[newest].archive == "none"
    for step in steps(mirrored.checkpoints):
        record = records(mirrored)[step]
        assert (record.state, record.cleaned) == ("committed", False)
        assert record.size == record.sent == commits[step].size
        assert record.token == commits[step].token


def test_what_else_the_run_wrote_is_there_as_it_is_here(mirrored: Workplace, s3: Server) -> None:
    run, here = remote(URL), mirrored.run.path
    names = run.names()
    expected = {
        *("attempt.json", "run.json", "recipe.toml", "metrics.jsonl", "timing.jsonl"),
        *(
            "samples.jsonl",
            "metrics.json",
            "completion.json",
            "log.txt",
            "tokenizer/tokenizer.json",
        ),
    }
    assert expected <= {*names}
    assert any(name.startswith("plots/") and name.endswith(".png") for name in names)
    written_later = {"log.txt", "attempt.json", "completion.json", "run.json"}
    for name in {*names} - written_later:
        assert run.read_file(name) == (here / name).read_bytes(), name
    record = run.record()
    assert record is not None
    assert (record["state"], record["step"]) == ("completed", 60)
    completion = run.completion()
    assert completion is not None
    assert completion.identity == mirrored.record["identity"]["hash"]


def test_the_mirror_changes_nothing_of_the_training(
    mirrored: Workplace, reference: Reference
) -> None:
    plain, found = reference("fp32").result(), mirrored.result()
    for name in ("checkpoint", "model.safetensors", "optimizer.safetensors"):
        assert found[name] == plain[name]
    assert mirrored.rows[-1]["val/loss"] == reference("fp32").rows[-1]["val/loss"]


def test_the_run_is_listed_with_its_state_and_checkpoints(mirrored: Workplace, s3: Server) -> None:
    (entry,) = as_json(mirrored, "runs", "list", "--storage", URL)
    assert (entry["id"], entry["state"], entry["step"]) == ("tiny", "completed", 60)
    assert {*entry["checkpoints"]} >= {*steps(mirrored.checkpoints)}
    table = mirrored.forge_here("runs", "list", "--storage", URL)
    assert "tiny" in table
    assert "completed" in table


def test_the_journal_tells_trackers_where_checkpoints_are(mirrored: Workplace) -> None:
    events = [json.loads(line) for line in mirrored.run.journal.read_text().splitlines()]
    told = {
        event["step"]: event["url"]
        for event in events
        if event["hook"] == "forge_checkpoint_uploaded"
    }
    assert told[60] == f"{URL}/tiny/attempt-00001/checkpoints/step-00000060"


@pytest.mark.slow
@pytest.mark.parametrize("archive", [pytest.param("tar.gz", marks=pytest.mark.slow), "tar.zst"])
def test_a_run_is_archived_on_google_cloud_storage_and_comes_back(
    tmp_path: Path, gcs: Server, gcs_url: str, archive: str
) -> None:
    settings = {
        **stored_at(gcs_url, storage__archive=f'"{archive}"'),
        # The emulator takes the last line end off what is sent in one request.
        "storage.gcs.part_size": "262144",
        "train.max_steps": "12",
    }
    workplace = Workplace(tmp_path / "here", settings, {"STORAGE_EMULATOR_HOST": gcs.url})
    workplace.train_here()
    commits = assert_all_committed(workplace, remote(gcs_url))
    assert {commit.archive for commit in commits.values()} == {archive}
    packed = [name for name in commits[12].objects if not name.startswith("run/")]
    assert packed == [f"archive.{archive}"]
    assert [path for path in workplace.run.uploads.iterdir() if path.is_dir()] == []

    other = Workplace(tmp_path / "there", settings, workplace.environment)
    other.forge_here("runs", "pull", "tiny", "--storage", gcs_url, "--checkpoint", "last")
    assert hashes(other.checkpoints[0]) == hashes(workplace.checkpoints[-1])
