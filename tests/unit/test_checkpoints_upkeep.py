"""``forge checkpoints verify`` and ``prune``: what is damaged, and what nobody needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import upload_parts
from checkpoint_drafts import flip_bit
from generate_parts import make_trained_run
from typer.testing import CliRunner, Result
from upload_parts import make_remote, upload_all

from llmforge.checkpoint import open_checkpoint
from llmforge.cli.checkpoints import app
from llmforge.courier.upload_queue import fingerprint
from llmforge.errors import CheckpointError, RunError, RunLockedError, UsageError
from llmforge.rundir import RunDirectory, RunLock, read_record, write_record
from llmforge.rundir.uploads import UploadRecord, UploadState, write_upload


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run with checkpoints of steps 1 to 6, the first the best."""
    monkeypatch.setenv("FORGE_RUN_ROOT", str(tmp_path / "runs"))
    return make_trained_run(tmp_path / "runs", "run-1", steps=6)


def forge(*arguments: str, code: int = 0) -> Result:
    """Run the command, raising its error."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def checkpoint(run: RunDirectory, step: int) -> Path:
    return run.checkpoints / f"step-{step:08d}"


def steps(run: RunDirectory) -> list[int]:
    return sorted(int(path.name[5:]) for path in run.checkpoints.glob("step-*"))


def upload(run: RunDirectory, step: int, state: UploadState) -> None:
    record = UploadRecord(step, fingerprint(open_checkpoint(checkpoint(run, step))), state)
    write_upload(run, record, durable=False)


# verify --------------------------------------------------------------------------------------


def test_verify_names_file_and_remedy_and_exits_with_1(run: RunDirectory) -> None:
    assert "6 checkpoints, all sound" in forge("verify", "run-1").stdout
    flip_bit(checkpoint(run, 2) / "model.safetensors")
    (checkpoint(run, 4) / "trainer.json").unlink()
    lines = forge("verify", "run-1", code=1).stdout.splitlines()
    assert lines[1:3] == [
        "run-1  step 2  damaged",
        "  model.safetensors was altered: its SHA-256 does not match the manifest",
    ]
    assert "  trainer.json is missing" in lines
    assert "2 of 6 damaged" in lines
    assert lines[-1].startswith("run-1: use another checkpoint (step 1, 3, 5, 6)")


def test_verify_takes_checkpoints_and_all_runs(run: RunDirectory, tmp_path: Path) -> None:
    make_trained_run(tmp_path / "runs", "other", steps=1)
    flip_bit(checkpoint(run, 6) / "model.safetensors")
    assert forge("verify", "run-1@1", str(checkpoint(run, 2))).exit_code == 0
    assert forge("verify", "run-1@best").exit_code == 0
    assert forge("verify", "run-1@last", code=1).stdout.startswith("run-1  step 6  damaged")
    found = json.loads(forge("verify", "--all", "--json", code=1).stdout)
    assert [(item["run"], item["step"]) for item in found if item["problems"]] == [("run-1", 6)]
    assert {item["run"] for item in found} == {"run-1", "other"}


def test_verify_of_a_damaged_manifest_goes_by_the_name(run: RunDirectory) -> None:
    (checkpoint(run, 3) / "manifest.json").write_text("{")
    (found,) = json.loads(forge("verify", "run-1@3", "--json", code=1).stdout)
    assert found["step"] == 3
    assert "is not a manifest" in found["problems"][0]


def test_verify_points_to_the_copy_in_storage(run: RunDirectory) -> None:
    upload(run, 2, "committed")
    flip_bit(checkpoint(run, 2) / "model.safetensors")
    assert "forge runs pull run-1 --checkpoint 2" in forge("verify", "run-1@2", code=1).stdout


def test_verify_says_what_is_wrong_with_an_address(run: RunDirectory) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint of step 9"):
        forge("verify", "run-1@9")
    with pytest.raises(CheckpointError, match="'newest' is not a checkpoint"):
        forge("verify", "run-1@newest")
    with pytest.raises(RunError, match="no run 'nowhere'"):
        forge("verify", "nowhere")
    with pytest.raises(UsageError, match="--all is all runs"):
        forge("verify", "run-1", "--all")


# prune ---------------------------------------------------------------------------------------


def pruned(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(forge("prune", "run-1", *arguments, "--json").stdout)
    return found


def test_prune_keeps_best_last_and_what_was_asked_for(run: RunDirectory) -> None:
    before = {step: open_checkpoint(checkpoint(run, step)).manifest.size for step in steps(run)}
    found = pruned("--keep-last", "2", "--yes")
    assert steps(run) == [1, 5, 6]
    assert [item["step"] for item in found["deleted"]] == [2, 3, 4]
    assert found["bytes"] == before[2] + before[3] + before[4]
    assert (run.checkpoints / "last").read_text() == "step-00000006\n"
    assert not list(run.checkpoints.glob(".*"))


def test_prune_keeps_every_so_many_steps(run: RunDirectory) -> None:
    forge("prune", "run-1", "--keep-every", "2", "--yes")
    assert steps(run) == [1, 2, 4, 6]


def test_a_dry_run_deletes_nothing(run: RunDirectory) -> None:
    text = forge("prune", "run-1", "--keep-last", "1", "--dry-run").stdout
    assert "would go: 4 checkpoints, " in text
    assert "what stays: step 1 (best), 6 (last)" in text
    assert pruned("--keep-last", "1", "--dry-run")["dry_run"] is True
    assert steps(run) == [1, 2, 3, 4, 5, 6]


def test_prune_never_takes_what_is_pinned_damaged_or_on_its_way(run: RunDirectory) -> None:
    forge("pin", "run-1@2")
    (checkpoint(run, 3) / "trainer.json").unlink()
    upload(run, 4, "uploading")
    upload(run, 5, "committed")
    why = {item["step"]: item["why"] for item in pruned("--keep-last", "1", "--yes")["kept"]}
    assert steps(run) == [1, 2, 3, 4, 6]
    assert why == {
        1: "best",
        2: "pinned",
        3: "damaged",
        4: "not in storage yet",
        6: "last",
    }


def test_prune_keeps_all_that_storage_has_not_where_the_recipe_has_one(
    run: RunDirectory, tmp_path: Path
) -> None:
    with run.recipe.open("a") as file:
        file.write(f'\n[storage]\nurl = "file://{tmp_path}/store"\n')
    text = forge("prune", "run-1", "--keep-last", "1", "--yes").stdout
    assert text.startswith(
        "run-1: nothing to delete; what stays: step 1 (best, not in storage yet)"
    )
    assert steps(run) == [1, 2, 3, 4, 5, 6]


def test_a_damaged_newest_does_not_count_as_the_last(run: RunDirectory) -> None:
    (checkpoint(run, 6) / "trainer.json").unlink()
    forge("prune", "run-1", "--keep-last", "1", "--yes")
    assert steps(run) == [1, 5, 6]


def test_a_run_that_is_trained_is_refused(run: RunDirectory) -> None:
    with RunLock(run.root, run.id), pytest.raises(RunLockedError) as caught:
        forge("prune", "run-1", "--keep-last", "1", "--yes")
    assert caught.value.exit_code == 3
    elsewhere = {"host": "another", "time": 4e9}
    write_record(run, replace(read_record(run), state="running", heartbeat=elsewhere))
    with pytest.raises(RunLockedError, match="run-1 is being trained"):
        forge("prune", "run-1", "--keep-last", "1", "--yes")
    assert len(steps(run)) == 6


def test_without_a_yes_nothing_is_deleted(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="needs a yes"):
        forge("prune", "run-1", "--keep-last", "1")
    with pytest.raises(UsageError, match="nothing says which checkpoints shall stay"):
        forge("prune", "run-1", "--yes")
    assert len(steps(run)) == 6


def test_what_cannot_be_deleted_is_said(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("llmforge.checkpoint.publish.delete", refuse)
    with pytest.raises(CheckpointError, match=r"step-00000002 cannot be deleted: Permission"):
        forge("prune", "run-1", "--keep-last", "1", "--yes")


# list, export --------------------------------------------------------------------------------


def test_the_list_marks_what_is_uploaded(run: RunDirectory) -> None:
    for step, state in ((1, "committed"), (2, "uploading"), (3, "failed")):
        upload(run, step, state)  # type: ignore[arg-type]
    lines = forge("list", "run-1").stdout.splitlines()
    assert lines[1].endswith("best, uploaded")
    assert lines[2].endswith("uploading")
    assert lines[3].endswith("upload failed")
    assert lines[6].endswith("last")


def test_the_list_of_a_storage_has_what_is_committed_there(tmp_path: Path) -> None:
    upload_all(upload_parts.make_run(tmp_path, 1, 2), make_remote(tmp_path))
    place = ("--storage", f"file://{tmp_path}/storage", "--root", str(tmp_path / "nothing-here"))
    found = json.loads(forge("list", "my", *place, "--json").stdout)
    assert [(item["step"], item["is_last"]) for item in found] == [(1, False), (2, True)]
    assert found[1]["path"].endswith("my-run/attempt-00001/checkpoints/step-00000002")
    assert forge("list", "my-run", *place).stdout.splitlines()[-1].endswith("last, uploaded")
    with pytest.raises(RunError, match=r"no run in .* begins with 'other'"):
        forge("list", "other", *place)
    with pytest.raises(UsageError, match="name a run"):
        forge("list", *place)
    with pytest.raises(UsageError, match="--verify is of checkpoints that are here"):
        forge("list", "my-run", "--verify", *place)


def test_export_is_that_of_forge_export(run: RunDirectory, tmp_path: Path) -> None:
    forge("export", "run-1@2", "--weights", str(tmp_path / "w.safetensors"))
    assert (tmp_path / "w.safetensors").is_file()
