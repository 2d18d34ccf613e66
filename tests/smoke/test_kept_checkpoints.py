"""Checkpoints that a tracker keeps count as uploads, and a run resumes from one elsewhere."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from conftest import Reference
from forge_process import Workplace
from mlflow_server import shared_server


@pytest.mark.slow
def test_a_run_whose_checkpoints_mlflow_keeps_deletes_them_here_and_goes_on_from_there(
    workplace: Workplace, reference: Reference
) -> None:
    server = shared_server() if shared_server().answers() else shared_server().start()
    settings = {
        "tracker.names": '["mlflow"]',
        "tracker.close_timeout": "60",
        "tracker.mlflow.tracking_uri": server.url,
        "tracker.mlflow.experiment": workplace.path.parent.name,
        "tracker.mlflow.log_checkpoints": "all",
        "storage.delete_local_after_upload": "true",
        "checkpoint.keep_last": "50",
    }
    place = dataclasses.replace(
        workplace,
        settings=settings,
        environment={"MLFLOW_TRACKING_URI": server.url},
    )
    place.train_here("--set", "train.stop_at=9")
    output = place.train_here("--set", "train.stop_at=15")

    saved = {int(path.stem.partition("-")[2]) for path in place.run.uploads.glob("kept-*.json")}
    here = {int(path.name.partition("-")[2]) for path in place.checkpoints}
    assert saved >= {3, 9, 15}
    assert not here & {3, 9}  # safe in MLflow, and neither the newest nor the best
    assert 15 in here
    journal = [json.loads(line) for line in place.run.journal.read_text().splitlines()]
    uploaded = {event["step"] for event in journal if event["hook"] == "forge_checkpoint_uploaded"}
    assert uploaded == saved
    identity = json.loads((place.run.trackers / "mlflow" / "run.json").read_text())["run_id"]
    assert f"in mlflow:{identity}, read back and verified" in output

    shutil.rmtree(place.run.root)
    alone = {"tracker.names": "[]", "storage.delete_local_after_upload": "false"}
    place = dataclasses.replace(place, settings={**settings, **alone})
    place.train_here("--resume", f"mlflow:{identity}@last")

    (end,) = (path for path in place.checkpoints if path.name == "step-00000060")
    undisturbed = reference("fp32").checkpoints[-1]
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (end / name).read_bytes() == (undisturbed / name).read_bytes()
