"""What the training process makes of its uploads: lines, protection, waiting, failing."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from upload_parts import make_remote, make_run, upload_all

from llmforge.recipe.schema import StorageKeys
from llmforge.run.reporting.upload_status import UploadWatch, grace_seconds, upload_text
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord

PLACE = "s3://bucket/runs/my-run/attempt-00001"


def watch(
    run: RunDirectory, told: list[tuple[int, str]] | None = None, place: str = PLACE, **keys: Any
) -> UploadWatch:
    sink = told if told is not None else []
    return UploadWatch(
        run,
        StorageKeys(url="s3://bucket/runs", **keys),
        place=place,
        on_committed=lambda step, url: sink.append((step, url)),
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path, 1, 2, 3, 4, 5)


def test_a_commit_is_told_once_and_cleaning_is_none(run: RunDirectory) -> None:
    told: list[tuple[int, str]] = []
    watching = watch(run, told)
    watching(UploadRecord(3, state="verifying"))
    watching(UploadRecord(3, state="committed", url="s3://x"))
    watching(UploadRecord(3, state="committed", url="s3://x", cleaned=True))
    assert told == [(3, "s3://x")]


def test_an_outage_is_a_warning_once_and_not_with_every_try(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    watching = watch(run)
    with caplog.at_level(logging.DEBUG, "llmforge.run"):
        for number, error in enumerate(("down", "down", "other"), start=1):
            watching(UploadRecord(3, state="failed", tries=number, error=error))
            watching(UploadRecord(3, state="uploading", tries=number + 1))
        watching(UploadRecord(3, state="committed", tries=4))
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "DEBUG", "DEBUG", "DEBUG", "WARNING", "DEBUG", "INFO"]


def test_as_many_as_the_queue_holds_are_protected(run: RunDirectory) -> None:
    assert watch(run, queue=2).protected() == [5, 4]
    assert watch(run, queue=9).protected() == [5, 4, 3, 2, 1]


def test_what_is_in_storage_need_not_stay_only_if_the_recipe_says_so(
    run: RunDirectory, tmp_path: Path
) -> None:
    remote = make_remote(tmp_path)
    upload_all(run, remote)
    assert watch(run, place=remote.url).elsewhere() == ()
    wanted = {"delete_local_after_upload": True}
    assert watch(run, place=remote.url, **wanted).elsewhere() == {1, 2, 3, 4, 5}
    assert watch(run, place=remote.url).protected() == []
    assert watch(run, **wanted).elsewhere() == set()  # it is in another place


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_failure_ends_the_run_only_if_the_recipe_says_so(
    run: RunDirectory, on_error: str
) -> None:
    watching = watch(run, on_error=on_error)
    assert watching.failure() is None
    watching(UploadRecord(3, state="failed", tries=1, error="down"))
    failure = watching.failure()
    assert (failure is not None) == (on_error == "raise")
    if failure is not None:
        assert failure.message.startswith("upload of step 3: failed (try 1), will be tried again")
    watching(UploadRecord(3, state="committed"))
    assert watching.failure() is None
    watching.failed("the mirror fails")
    assert (watching.failure() is not None) == (on_error == "raise")


def waited(watching: UploadWatch, step: int, *, stop: bool = False) -> float:
    began = time.monotonic()
    watching.wait_for(step, stop=lambda: stop)
    return time.monotonic() - began


def test_waiting_ends_with_the_commit(run: RunDirectory) -> None:
    watching = watch(run)
    committed = UploadRecord(3, state="committed")
    threading.Timer(0.1, watching, args=[committed]).start()
    assert 0.05 < waited(watching, 3) < 5
    assert waited(watching, 3) < 0.05


def test_waiting_ends_when_it_is_in_vain(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    assert waited(watch(run), 3, stop=True) < 1
    hopeless = watch(run)
    hopeless(UploadRecord(3, state="failed", final=True, error="damaged"))
    assert waited(hopeless, 3) < 1
    failing = watch(run, on_error="raise")
    failing(UploadRecord(2, state="failed", error="down"))
    assert waited(failing, 3) < 1
    assert "continuing" not in caplog.text
    assert waited(watch(run, close_timeout=0.1), 3) < 2
    assert "step 3 is not in storage after 0.1 s; continuing" in caplog.text


@pytest.mark.parametrize(
    ("stopped_by", "grace", "seconds"),
    [
        (None, None, 600.0),
        (None, 5.0, 600.0),
        ("SIGINT", None, 30.0),
        ("SIGTERM", None, 0.0),
        ("failure", None, 30.0),
        ("SIGTERM", 7.0, 7.0),
        ("SIGINT", 0.0, 0.0),
    ],
)
def test_the_time_uploads_get_in_the_end(
    stopped_by: str | None, grace: float | None, seconds: float
) -> None:
    keys = StorageKeys(url="s3://x/y", grace_seconds=grace)
    assert grace_seconds(keys, stopped_by=stopped_by) == seconds


def test_every_state_has_its_words() -> None:
    def text(**fields: Any) -> str:
        return upload_text(UploadRecord(3, size=2_000_000, sent=1_000_000, seconds=1.5, **fields))

    assert text(state="queued") == "queued, 2.0 MB"
    assert text(state="queued", error="lost there") == "queued, 2.0 MB, lost there"
    assert text(state="archiving") == "archiving 2.0 MB"
    assert text(state="uploading") == "uploading, 1.0 MB of 2.0 MB in 1.5 s"
    assert text(state="verifying") == "verifying 2.0 MB"
    assert text(state="committed", url="s3://x") == "committed, 2.0 MB in 1.5 s: s3://x"
    assert text(state="committed", cleaned=True) == "cleaned, the local checkpoint is deleted"
    assert text(state="failed", tries=2, error="no") == ("failed (try 2), will be tried again: no")
    assert text(state="failed", tries=1, error="no", final=True) == (
        "failed (try 1), not tried again by itself: no"
    )
    assert text(state="cancelled") == "cancelled, a newer checkpoint took its place"
