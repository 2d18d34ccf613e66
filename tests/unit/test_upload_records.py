"""What of a run is to be uploaded, by what is on the disk; and what becomes of the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkpoint_drafts import draft, save
from upload_parts import make_run

from llmforge.checkpoint import open_checkpoint
from llmforge.checkpoint.publish import publish
from llmforge.courier import committed_uploads, forget_uploads, pending_uploads, settle_superseded
from llmforge.courier.upload_queue import checkpoint_url, new_record
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord, UploadState, read_uploads, write_upload

PLACE = "s3://bucket/runs/my-run/attempt-00001"


def note(directory: RunDirectory, step: int, state: UploadState, *, token: str = "") -> None:
    """Write a record of the checkpoint of ``step`` as an uploader does."""
    checkpoint = open_checkpoint(directory.checkpoints / f"step-{step:08d}")
    record = new_record(read_uploads(directory), checkpoint, PLACE)
    record.state, record.token = state, token
    write_upload(directory, record)


def pending(directory: RunDirectory, place: str = PLACE) -> list[int]:
    return [item.step for item in pending_uploads(directory, place)]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path, 1, 2, 3, 4)


def test_a_record_is_read_back_as_it_was_written(run: RunDirectory) -> None:
    record = UploadRecord(
        step=7,
        checkpoint="now",
        state="failed",
        token="abc",
        size=10,
        sent=3,
        tries=2,
        seconds=1.5,
        error="why",
        final=True,
        url="s3://x",
        leftovers=["def"],
        cleaned=True,
        updated=5.0,
    )
    write_upload(run, record)
    assert read_uploads(run) == {7: record}


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", '{"state": "committed"}'])
def test_a_damaged_record_counts_as_none(run: RunDirectory, content: str) -> None:
    note(run, 3, "committed")
    (run.uploads / "step-00000003.json").write_text(content)
    assert read_uploads(run) == {}
    assert 3 in pending(run)


def test_a_record_of_a_later_version_is_read_without_what_is_not_known(run: RunDirectory) -> None:
    run.uploads.mkdir()
    path = run.uploads / "step-00000003.json"
    path.write_text('{"step": 3, "state": "committed", "of_tomorrow": 1}')
    assert read_uploads(run) == {3: UploadRecord(3, state="committed")}


def test_the_newest_comes_first_then_the_best_then_the_others(tmp_path: Path) -> None:
    run = make_run(tmp_path, 1)
    save(run.checkpoints, 2, best=True)
    save(run.checkpoints, 3, 4, 5)
    assert pending(run) == [5, 2, 4, 3, 1]
    note(run, 5, "committed")
    assert pending(run) == [4, 2, 3, 1]
    assert committed_uploads(run, PLACE) == {5}


def test_what_is_under_way_comes_before_all_so_that_it_is_kept(run: RunDirectory) -> None:
    note(run, 2, "uploading", token="abc")
    assert pending(run) == [2, 4, 3, 1]
    note(run, 2, "failed", token="abc")
    assert pending(run) == [4, 3, 2, 1]


def test_an_earlier_checkpoint_of_the_step_says_nothing_about_this_one(run: RunDirectory) -> None:
    note(run, 4, "committed")
    record = read_uploads(run)[4]
    record.checkpoint = "earlier"
    write_upload(run, record)
    assert pending(run)[0] == 4
    assert committed_uploads(run, PLACE) == set()


def test_a_checkpoint_in_one_place_is_pending_for_another(run: RunDirectory) -> None:
    note(run, 4, "committed")
    assert committed_uploads(run, PLACE) == {4}
    assert pending(run, "gs://other/my-run/attempt-00001") == [4, 3, 2, 1]
    assert committed_uploads(run, "gs://other/my-run/attempt-00001") == set()


def test_what_is_deleted_here_is_cleaned_or_cancelled(run: RunDirectory) -> None:
    note(run, 1, "committed", token="done")
    note(run, 2, "uploading", token="started")
    note(run, 3, "queued")
    (run.uploads / "started").mkdir()
    for step in (1, 2, 3):
        shutil.rmtree(run.checkpoints / f"step-{step:08d}")
    told: list[UploadRecord] = []
    settle_superseded(run, on_change=told.append)
    settle_superseded(run, on_change=told.append)  # told once
    assert [(item.step, item.state, item.cleaned) for item in told] == [
        (1, "committed", True),
        (2, "cancelled", False),
        (3, "cancelled", False),
    ]
    known = read_uploads(run)
    assert known[2].leftovers == ["started"]
    assert known[1].leftovers == known[3].leftovers == []
    assert not (run.uploads / "started").exists()


def test_a_new_checkpoint_of_the_step_inherits_what_is_to_be_removed(run: RunDirectory) -> None:
    note(run, 4, "uploading", token="first")
    again = publish(run.checkpoints, draft=draft(4, weights=b"x"))
    record = new_record(read_uploads(run), again, PLACE)
    assert (record.leftovers, record.token, record.state) == (["first"], "", "queued")
    assert record.url == checkpoint_url(PLACE, 4)
    assert new_record(read_uploads(run), again, "gs://other").leftovers == []


def test_a_run_that_goes_back_forgets_what_was_uploaded_later(run: RunDirectory) -> None:
    for step in (2, 3):
        note(run, step, "committed", token=f"token-{step}")
    note(run, 4, "uploading", token="started")
    forget_uploads(run, after=2)
    assert committed_uploads(run, PLACE) == {2}
    assert pending(run) == [4, 3, 1]  # should it be killed before they are set aside
    assert read_uploads(run)[3].leftovers == []  # what was committed is storage's to keep
    assert read_uploads(run)[4].leftovers == ["started"]
