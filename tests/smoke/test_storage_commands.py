"""``forge uploads`` and ``forge runs`` on runs in storage: what they show, fetch, and refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from forge_process import Workplace
from servers import Server
from storage_parts import (
    as_json,
    assert_all_committed,
    last_committed,
    lose_machine,
    records,
    remote,
    s3_environment,
    steps,
    stored_at,
)

from llmforge.rundir.uploads import write_upload


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped at step 12, every checkpoint in a folder beside it; not to be changed."""
    place = tmp_path_factory.mktemp("original")
    settings = stored_at(f"file://{place}/storage", storage__background="false")
    workplace = Workplace(place / "here", settings)
    workplace.train_here("--set", "train.stop_at=12")
    assert steps(workplace.checkpoints) == [10, 12]
    assert [commit.step for commit in remote(f"file://{place}/storage").commits()] == [
        *(3, 5, 6, 9, 10, 12)
    ]
    return place


@pytest.fixture
def url(original: Path, tmp_path: Path) -> str:
    """The URL of a copy of the storage."""
    shutil.copytree(original / "storage", tmp_path / "storage")
    return f"file://{tmp_path}/storage"


@pytest.fixture
def here(original: Path, tmp_path: Path, url: str) -> Workplace:
    """A copy of the run, mirrored to the copy of the storage."""
    shutil.copytree(original / "here", tmp_path / "here")
    workplace = Workplace(tmp_path / "here", stored_at(url, storage__background="false"))
    recipe = workplace.run.recipe.read_text()
    workplace.run.recipe.write_text(recipe.replace(f"file://{original}/storage", url))
    return workplace


@pytest.fixture
def elsewhere(here: Workplace, tmp_path: Path) -> Workplace:
    """Another machine, on which the run never was."""
    copied = here.copy(tmp_path / "elsewhere")
    lose_machine(copied)
    return copied


def test_the_tables_show_what_is_where(here: Workplace, url: str) -> None:
    here.forge_here("uploads", "push-all", "tiny")
    listed = here.forge_here("uploads", "list", "tiny")
    assert f"{url}/tiny/attempt-00001" in listed
    assert [line.split()[0] for line in listed.splitlines()[2:] if line] == [
        *("3", "5", "6", "9", "10", "12")
    ]
    assert "  10  best  " in listed
    status = as_json(here, "uploads", "status", "tiny")
    assert {item["step"]: item["state"] for item in status} == dict.fromkeys(
        (3, 5, 6, 9, 10, 12), "committed"
    )
    assert as_json(here, "uploads", "verify", "tiny", "--deep") == [
        {"step": step, "problems": []} for step in (3, 5, 6, 9, 10, 12)
    ]


def test_a_push_to_another_place_sends_everything_that_is_here(
    here: Workplace, tmp_path: Path
) -> None:
    other = f"file://{tmp_path}/other"
    told = here.forge_here("uploads", "push-all", "tiny", "--storage", other)
    assert f"everything asked for is in {other}/tiny/attempt-00001" in told
    assert [*assert_all_committed(here, remote(other))] == [10, 12]
    third = f"file://{tmp_path}/third"
    here.forge_here("uploads", "push", "tiny@best", "--storage", third)
    assert [commit.step for commit in remote(third).commits()] == [10]
    told = here.forge_here("uploads", "push-all", "tiny")  # back to its own: looked up, not sent
    assert "everything asked for is in" in told
    assert {records(here)[step].state for step in (10, 12)} == {"committed"}


def test_uploads_that_failed_or_were_broken_off_are_tried_again_by_retry(here: Workplace) -> None:
    here.forge_here("uploads", "push-all", "tiny")
    for step, state in ((10, "failed"), (12, "uploading")):
        record = records(here)[step]
        record.state, record.error = state, "as if"
        write_upload(here.run, record)
    status = here.forge_here("uploads", "status", "tiny")
    assert "failed (try 1), will be tried again: as if" in status
    assert "broken off while uploading, at " in status
    told = here.forge_here("uploads", "retry", "tiny")
    assert "step 10: committed" in told
    assert "step 12: committed" in told
    assert "no upload of tiny has failed" in here.forge_here("uploads", "retry", "tiny")


def test_a_damaged_record_of_an_upload_is_written_anew(here: Workplace) -> None:
    for path in here.run.uploads.glob("step-*.json"):
        path.write_text("{")
    status = as_json(here, "uploads", "status", "tiny")
    assert {item["step"]: item["state"] for item in status} == {10: "queued", 12: "queued"}
    here.train_here("--set", "train.stop_at=15")
    assert records(here)[12].state == "committed"
    assert here.record["step"] == 15


def test_a_run_is_pulled_with_the_checkpoint_that_is_asked_for(
    elsewhere: Workplace, here: Workplace, url: str
) -> None:
    told = elsewhere.forge_here("runs", "pull", "ti", "--storage", url)
    assert "fetching step 10" in told  # the best
    assert steps(elsewhere.checkpoints) == [10]
    assert (elsewhere.run.checkpoints / "best").read_text() == "step-00000010\n"
    assert elsewhere.record["step"] == 12
    assert "step 10 is already here" in elsewhere.forge_here("runs", "pull", "tiny")
    elsewhere.forge_here("runs", "pull", "tiny", "--checkpoint", "all")
    assert steps(elsewhere.checkpoints) == [3, 5, 6, 9, 10, 12]
    newest = elsewhere.checkpoints[-1] / "model.safetensors"
    assert newest.read_bytes() == (here.checkpoints[-1] / "model.safetensors").read_bytes()
    told = elsewhere.forge_here("runs", "pull", "tiny", "--checkpoint", "7", expect=2)
    assert "committed steps: 3, 5, 6, 9, 10, 12" in told

    elsewhere.train_here("--set", "train.stop_at=13")  # a run that was pulled continues
    assert elsewhere.record["step"] == 13


def test_going_back_supersedes_what_storage_has_later(
    here: Workplace, elsewhere: Workplace, url: str
) -> None:
    process = here.train_here("--resume", "tiny@10", "--set", "train.stop_at=11")
    assert "resuming from step 10" in process
    assert [commit.step for commit in remote(url).commits()] == [3, 5, 6, 9, 10, 11]
    assert last_committed(remote(url)) == 11
    told = elsewhere.train_here("--set", "train.stop_at=12")
    assert "resuming from step 11" in told
    assert last_committed(remote(url)) == 12


def test_a_cleared_run_begins_a_new_attempt_on_every_machine(
    here: Workplace, elsewhere: Workplace, url: str
) -> None:
    told = here.forge_here("runs", "clear", "tiny", "--yes")
    assert f"attempt 2 is started in {url}/tiny/attempt-00002" in told
    told = elsewhere.train_here("--set", "train.stop_at=3")
    assert "run tiny: new run" in told
    assert remote(url, attempt=2).steps() == [3]
    assert len(remote(url).commits()) == 6  # the earlier attempt stays

    told = here.train_here("--set", "train.stop_at=4")
    assert "resuming from step 3" in told
    assert (here.record["attempt"], here.record["step"]) == (2, 4)

    # What is here is not mixed with what is there.
    elsewhere.forge_here("runs", "pull", "tiny", "--checkpoint", "all")
    remote(url, attempt=3).begin()
    told = elsewhere.forge_here(
        *("runs", "pull", "tiny", "--storage", url, "--checkpoint", "none"), expect=1
    )
    assert "holds attempt 2, not what is in" in told
    shutil.rmtree(Path(url.removeprefix("file://")) / "tiny" / "attempt-00003")

    # Cleared where attempt 1 never was: the next is 3 all the same.
    elsewhere.forge_here("runs", "clear", "tiny", "--yes")
    assert remote(url).attempts() == [1, 2, 3]
    told = here.train_here(expect=1)
    assert "storage holds attempt 3 of run tiny, here is attempt 2" in told
    assert "Traceback" not in told


MISTAKES = {
    "an unknown run": ("uploads status nobody", 1, "nobody"),
    "an unknown run to pull": ("runs pull nobody", 1, "nobody"),
    "no storage in the recipe": ("uploads list tiny", 2, "has no storage.url"),
    "no storage to push to": ("uploads push-all tiny", 2, "--storage URL"),
    "no URL": ("uploads list tiny --storage bucket", 2, "bucket"),
    "an unknown scheme": ("uploads list tiny --storage nope://x/y", 1, "nope"),
    "no bucket": ("uploads verify tiny --storage s3://missing/x", 1, "there is no bucket missing"),
    "no bucket to list": ("runs list --storage s3://missing/x", 1, "there is no bucket missing"),
    "no bucket to push to": (
        *("uploads push tiny@last --storage s3://missing/x", 1),
        "there is no bucket missing",
    ),
    "an unknown step": ("uploads push tiny@99 --storage s3://missing/x", 1, "step 99"),
    "an unknown run there": ("runs pull nobody --storage {empty}", 1, "no run in"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_clear_message(
    original: Path, tmp_path: Path, s3: Server, name: str
) -> None:
    command, code, message = MISTAKES[name]
    shutil.copytree(original / "here" / "runs", tmp_path / "runs")
    place = Workplace(original / "here", {}, s3_environment(s3.url))
    recipe = tmp_path / "runs" / "tiny" / "recipe.toml"
    url = f"file://{original}/storage"
    recipe.write_text(recipe.read_text().replace(f'url = "{url}"\n', ""))
    (tmp_path / "empty").mkdir()
    arguments = command.format(empty=f"file://{tmp_path}/empty").split()
    output = place.forge_here(*arguments, "--root", str(tmp_path / "runs"), expect=code)
    assert message in output
    assert output.startswith("forge: ")
    assert "Traceback" not in output


def test_credentials_that_are_missing_are_named(original: Path, s3: Server, s3_url: str) -> None:
    missing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    place = Workplace(original / "here", {}, {**s3_environment(s3.url), **missing})
    output = place.forge_here("uploads", "list", "tiny", "--storage", s3_url, expect=1)
    assert "looked for AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in output
    assert "Traceback" not in output
