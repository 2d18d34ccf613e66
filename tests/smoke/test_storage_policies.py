"""What the keys of ``[storage]`` promise: waiting, deleting, stopping, failing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import Workplace, logged
from servers import FaultProxy, Server
from storage_parts import (
    assert_all_committed,
    last_committed,
    records,
    remote,
    s3_environment,
    slow,
    steps,
    stored_at,
    under_way,
)

SHORT = {"train.max_steps": "18", "checkpoint.keep_last": "4"}


def test_uploaded_checkpoints_are_deleted_here_but_for_the_newest_and_the_best(
    tmp_path: Path, s3: Server, s3_url: str
) -> None:
    settings = {
        **SHORT,
        **stored_at(s3_url, storage__delete_local_after_upload="true", storage__background="false"),
    }
    workplace = Workplace(tmp_path / "here", settings, s3_environment(s3.url))
    output = workplace.train_here("--set", "train.max_steps=17")

    assert "upload of step 3: cleaned, the local checkpoint is deleted" in output
    commits = assert_all_committed(workplace, remote(s3_url))
    assert [*commits] == [3, 5, 6, 9, 10, 12, 15, 17]
    best = max(step for step, commit in commits.items() if commit.is_best)
    assert steps(workplace.checkpoints) == sorted({best, 17})
    for step, record in records(workplace).items():
        assert (record.state, record.cleaned) == ("committed", step not in (best, 17))


def test_a_failing_upload_deletes_nothing_and_is_told(tmp_path: Path) -> None:
    settings = {
        **SHORT,
        **stored_at("s3://nowhere/runs", storage__delete_local_after_upload="true"),
        "storage.resume": "false",
        "storage.close_timeout": "1",
    }
    workplace = Workplace(tmp_path / "here", settings, s3_environment("http://127.0.0.1:9"))
    output = workplace.train_here()
    kept = steps(workplace.checkpoints)
    assert {*kept} >= {15, 18}  # a new best and the last one; others a busy disk may skip
    assert len(kept) >= 4  # all that checkpoint.keep_last asks for
    assert f"not in storage yet: step {', '.join(map(str, kept))}" in output
    assert workplace.record["state"] == "completed"


@pytest.mark.slow
def test_without_background_no_step_is_taken_before_the_checkpoint_is_in_storage(
    tmp_path: Path, s3_proxy: FaultProxy, s3_url: str
) -> None:
    settings = {
        **stored_at(s3_url, storage__background="false"),
        "storage.grace_seconds": "0",
    }
    workplace = Workplace(tmp_path / "here", settings, s3_environment(s3_proxy.url))
    s3_proxy.faults = slow(0.1)
    process = workplace.start()
    assert process.wait_for(under_way(workplace))
    uploaded = max(records(workplace))
    before = workplace.rows
    time.sleep(0.3)
    assert workplace.rows == before
    assert all(row["step"] < uploaded for row in before)
    assert process.wait_for(lambda _: any(row["step"] > uploaded for row in workplace.rows))
    assert last_committed(remote(s3_url)) >= uploaded
    process.process.send_signal(signal.SIGTERM)
    process.finish(expect=75, within=20)


@pytest.mark.slow
def test_a_failing_storage_ends_the_run_when_the_recipe_says_so(
    tmp_path: Path, reference: Reference, s3_proxy: FaultProxy, s3_url: str
) -> None:
    workplace = Workplace(
        tmp_path / "here",
        {
            "train.precision": "fp32",
            **stored_at(s3_url, storage__on_error='"raise"', storage__background="false"),
            "storage.grace_seconds": "0",
        },
        s3_environment(s3_proxy.url),
    )
    s3_proxy.faults = lambda request: "error" if request.method == "PUT" else ""
    output = workplace.train_here(expect=1)
    assert "forge: upload of step 3: failed (try 1)" in output
    assert 'set storage.on_error = "warn"' in output
    assert "Traceback" not in output
    assert workplace.record["state"] == "failed"
    assert steps(workplace.checkpoints) == [3]

    s3_proxy.faults = lambda _: ""
    workplace.train_here("--set", "storage.background=true")
    assert workplace.result() == reference("fp32").result()
    assert_all_committed(workplace, remote(s3_url))


@pytest.mark.slow
def test_stopping_gives_uploads_the_time_the_signal_leaves(
    tmp_path: Path, s3_proxy: FaultProxy, s3_url: str
) -> None:
    settings = {
        **stored_at(s3_url),
        "train.max_steps": "100000",
        "early_stopping.patience": "0",
        "checkpoint.every": "200",
    }
    workplace = Workplace(tmp_path / "here", settings, s3_environment(s3_proxy.url))
    run = remote(s3_url)

    # SIGTERM: a scheduler waits for nobody. What is under way is left to the next start.
    s3_proxy.faults = slow(0.5)
    process = workplace.start()
    assert process.wait_for(under_way(workplace))
    process.process.send_signal(signal.SIGTERM)
    output = process.finish(expect=75, within=8).output
    stopped = workplace.record["step"]
    assert "not in storage yet: step " in output
    assert steps(workplace.checkpoints)[-1] == stopped
    status = workplace.forge_here("uploads", "status", "tiny")
    assert "broken off while" in status or "queued" in status

    # Ctrl-C: uploads get their seconds, a second Ctrl-C ends the waiting.
    s3_proxy.faults = slow(1.0)
    process = workplace.start()
    assert process.wait_for(logged("resuming from step"))
    assert process.wait_for(under_way(workplace))
    process.process.send_signal(signal.SIGINT)
    assert process.wait_for(lambda process: "finishing uploads" in process.output)
    process.process.send_signal(signal.SIGINT)
    output = process.finish(expect=75, within=8).output
    assert "uploads continue with the next start, or: forge uploads push-all tiny" in output
    assert "Traceback" not in output

    # And with a network that works, one Ctrl-C is followed by everything.
    s3_proxy.faults = slow(0.0)
    process = workplace.start()
    assert process.wait_for(under_way(workplace))
    process.process.send_signal(signal.SIGINT)
    output = process.finish(expect=75, within=20).output
    assert f"storage: everything is in {s3_url}/tiny/attempt-00001" in output
    assert_all_committed(workplace, run)
    record = run.record()
    assert record is not None
    assert (record["state"], record["step"]) == ("interrupted", workplace.record["step"])
    assert run.completion() is None


def test_credentials_that_are_missing_are_told_before_anything_is_trained(
    tmp_path: Path, s3: Server, s3_url: str
) -> None:
    missing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    environment = {**s3_environment(s3.url), **missing}
    workplace = Workplace(tmp_path / "here", stored_at(s3_url), environment)
    for resume in ("true", "false"):
        output = workplace.train_here("--set", f"storage.resume={resume}", expect=2)
        assert "no AWS credentials were found" in output
        assert "looked for AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in output
        assert "Traceback" not in output
    assert not workplace.run.record.exists()
