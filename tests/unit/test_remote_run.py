"""A run in storage: what is committed is there and sound, and nothing else counts."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_drafts import draft, flip_bit, save
from checkpoint_slices import cut, sliced_checkpoint

from llmforge.checkpoint import load_tensors, verify
from llmforge.checkpoint.publish import publish
from llmforge.errors import CheckpointError, CommitConflict, StorageError
from llmforge.remote import Cancelled, Commit, RemoteRun, list_runs, new_token


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{secrets.token_hex(8)}"
    return f"file://{tmp_path}/storage"


@pytest.fixture
def run(url: str) -> RemoteRun:
    return RemoteRun(url, None, "my-run", 1, stall_seconds=20.0)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    directory = tmp_path / "runs" / "my-run" / "checkpoints"
    save(directory, 100, 200)
    return directory


def upload(run: RemoteRun, checkpoints: Path, step: int = 100, **options: object) -> Commit:
    checkpoint = checkpoints / f"step-{step:08d}"
    return run.upload(checkpoint, **({"token": new_token()} | options))  # type: ignore[arg-type]


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def stored(run: RemoteRun, name: str) -> str:
    return f"my-run/attempt-00001/checkpoints/step-00000100/{name}"


def call(run: RemoteRun, work: Callable[..., object]) -> object:
    return run._connections.call("test", lambda storage, _: work(storage))


@pytest.mark.parametrize("archive", ["none", "tar.gz"])
def test_a_checkpoint_in_slices_goes_there_and_comes_back_with_all_its_files(
    run: RemoteRun, tmp_path: Path, archive: str
) -> None:
    weights = torch.arange(1000.0).reshape(10, 100)
    checkpoint = sliced_checkpoint(tmp_path / "checkpoints", cut({"w": weights}, 4))
    commit = run.upload(checkpoint, token=new_token(), archive=archive)
    assert "model-00004-of-00004.safetensors" in commit.files
    assert run.verify(commit, deep=True) == []
    target = tmp_path / "other" / "step-00000100"
    run.fetch(commit, target)
    assert contents(target) == contents(checkpoint)
    assert torch.equal(load_tensors(target, "model")["w"], weights)


@pytest.mark.parametrize("archive", ["none", "tar.gz", "tar.zst"])
def test_a_checkpoint_goes_there_and_comes_back_equal(
    run: RemoteRun, checkpoints: Path, tmp_path: Path, archive: str
) -> None:
    states: list[tuple[str, int, int]] = []
    commit = upload(run, checkpoints, archive=archive, on_state=lambda *told: states.append(told))
    assert run.commits() == [commit]
    assert (commit.step, commit.archive, commit.is_best) == (100, archive, False)
    assert run.verify(commit, deep=True) == []
    target = tmp_path / "other" / "step-00000100"
    run.fetch(commit, target)
    assert contents(target) == contents(checkpoints / "step-00000100")
    assert verify(target) == []
    assert [path.name for path in target.parent.iterdir()] == ["step-00000100"]
    order = ["archiving"] * (archive != "none") + ["uploading", "verifying", "committed"]
    assert list(dict.fromkeys(state for state, _, _ in states)) == order
    assert all(0 <= done <= total for _, done, total in states)
    for state in order:
        last = [told for told in states if told[0] == state][-1]
        assert last[1] == last[2] > 0
    assert not (checkpoints.parent / "uploads" / commit.token).exists()


def test_without_its_commit_a_checkpoint_does_not_exist(run: RemoteRun, checkpoints: Path) -> None:
    commit = upload(run, checkpoints)
    call(run, lambda storage: storage.delete(stored(run, "COMMIT.json")))
    assert run.commits() == []
    assert run.steps() == [100]
    upload(run, checkpoints, token=commit.token)
    assert [found.step for found in run.commits()] == [100]


def test_files_of_the_run_are_kept_with_the_checkpoint(
    run: RemoteRun, checkpoints: Path, tmp_path: Path
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 100}\n')
    names = {"metrics.jsonl": metrics, "cursors/a.json": metrics, "absent": tmp_path / "absent"}
    commit = upload(run, checkpoints, run_files=names)
    metrics.write_text("later")
    into = tmp_path / "into"
    assert run.fetch_run_files(commit, into) == ["cursors/a.json", "metrics.jsonl"]
    assert (into / "metrics.jsonl").read_text() == '{"step": 100}\n'
    assert (into / "cursors" / "a.json").read_text() == '{"step": 100}\n'


@pytest.mark.parametrize("archive", ["tar.gz", "tar.zst"])
def test_a_temporary_archive_is_gone_after_a_try_that_failed_too(
    run: RemoteRun, checkpoints: Path, archive: str
) -> None:
    def stop(state: str, done: int, total: int) -> None:
        if state == "verifying":
            raise Cancelled

    token = new_token()
    with pytest.raises(Cancelled):
        upload(run, checkpoints, token=token, archive=archive, on_state=stop)
    staging = checkpoints.parent / "uploads" / token
    assert [path.name for path in staging.iterdir()] == ["run"]


def test_what_arrived_is_not_sent_again(
    run: RemoteRun, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, sent = new_token(), []

    def stop_at_commit(state: str, done: int, total: int) -> None:
        if state == "verifying":
            raise Cancelled

    with pytest.raises(Cancelled):
        upload(run, checkpoints, token=token, on_state=stop_at_commit)
    assert run.commits() == []
    monkeypatch.setattr("llmforge.remote.upload.send", lambda *told, **_: sent.append(told))
    upload(run, checkpoints, token=token)
    assert sent == []
    assert [commit.token for commit in run.commits()] == [token]


def test_what_arrived_damaged_is_sent_again(run: RemoteRun, checkpoints: Path) -> None:
    token = new_token()
    damaged = stored(run, f"{token}/model.safetensors")
    size = (checkpoints / "step-00000100" / "model.safetensors").stat().st_size
    call(run, lambda storage: storage.write(damaged, bytes(size)))
    commit = upload(run, checkpoints, token=token)
    assert run.verify(commit, deep=True) == []


def test_the_run_files_of_the_first_try_stay_those_of_the_later_ones(
    run: RemoteRun, checkpoints: Path, tmp_path: Path
) -> None:
    """A COMMIT sent by an earlier try may still arrive, so what it names must not change."""
    metrics, token = tmp_path / "metrics.jsonl", new_token()
    metrics.write_text("then")

    def stop(state: str, done: int, total: int) -> None:
        if state == "verifying" and done == total:
            raise Cancelled

    with pytest.raises(Cancelled):
        upload(run, checkpoints, token=token, run_files={"m": metrics}, on_state=stop)
    metrics.write_text("later")
    commit = upload(run, checkpoints, token=token, run_files={"m": metrics})
    run.fetch_run_files(commit, tmp_path / "into")
    assert (tmp_path / "into" / "m").read_text() == "then"


def test_a_damaged_local_checkpoint_is_never_committed(run: RemoteRun, checkpoints: Path) -> None:
    flip_bit(checkpoints / "step-00000100" / "model.safetensors")
    for archive in ("none", "tar.gz"):
        with pytest.raises(CheckpointError, match="altered"):
            upload(run, checkpoints, archive=archive)
    (checkpoints / "step-00000200" / "trainer.json").unlink()
    for archive in ("none", "tar.gz"):
        with pytest.raises(CheckpointError, match="cannot be uploaded"):
            upload(run, checkpoints, 200, archive=archive)
    assert run.commits() == []


def test_an_equal_commit_of_somebody_else_counts_and_nothing_of_ours_stays(
    run: RemoteRun, checkpoints: Path
) -> None:
    first = upload(run, checkpoints)
    assert upload(run, checkpoints) == first
    assert upload(run, checkpoints, token=first.token) == first
    folders = call(run, lambda storage: storage.folders(stored(run, "")[:-1]))
    assert folders == [first.token]


def test_another_checkpoint_of_the_step_is_a_conflict_and_stays(
    run: RemoteRun, checkpoints: Path
) -> None:
    first = upload(run, checkpoints)
    publish(checkpoints, draft=draft(100, weights=b"other"))
    with pytest.raises(CommitConflict, match="holds another checkpoint of step 100"):
        upload(run, checkpoints)
    assert run.commits() == [first]
    assert run.verify(first, deep=True) == []
    assert (checkpoints / "step-00000100").is_dir()


def test_the_loser_of_a_race_removes_only_what_is_its_own(
    run: RemoteRun, url: str, checkpoints: Path
) -> None:
    other = RemoteRun(url, None, "my-run", 1)
    winner: list[Commit] = []

    def overtake(state: str, done: int, total: int) -> None:
        if state == "verifying" and done == total and not winner:
            winner.append(upload(other, checkpoints))

    won = upload(run, checkpoints, on_state=overtake)
    assert [won] == winner == run.commits()
    folders = call(run, lambda storage: storage.folders(stored(run, "")[:-1]))
    assert folders == [won.token]


def test_a_commit_that_was_tampered_with_is_an_error_not_an_absence(
    run: RemoteRun, checkpoints: Path
) -> None:
    upload(run, checkpoints)
    name = stored(run, "COMMIT.json")
    body = json.loads(call(run, lambda storage: storage.read(name)))  # type: ignore[arg-type]
    body["step"] = 101
    call(run, lambda storage: storage.write(name, json.dumps(body).encode()))
    with pytest.raises(StorageError, match="seal"):
        run.commits()
    call(run, lambda storage: storage.write(name, b""))
    with pytest.raises(StorageError, match="is not the COMMIT"):
        run.commits()


@pytest.mark.parametrize("archive", ["none", "tar.gz"])
def test_a_damaged_remote_checkpoint_is_found_and_never_brought_back(
    run: RemoteRun, checkpoints: Path, tmp_path: Path, archive: str
) -> None:
    commit = upload(run, checkpoints, archive=archive)
    name = "model.safetensors" if archive == "none" else "archive.tar.gz"
    place = stored(run, f"{commit.token}/{name}")
    content = bytearray(call(run, lambda storage: storage.read(place)))  # type: ignore[call-overload]
    content[len(content) // 2] ^= 1
    call(run, lambda storage: storage.write(place, bytes(content)))
    assert run.verify(commit) == []
    (problem,) = run.verify(commit, deep=True)
    assert "altered" in problem
    with pytest.raises(StorageError, match="altered"):
        run.fetch(commit, tmp_path / "into" / "step-00000100")
    assert list((tmp_path / "into").iterdir()) == []
    call(run, lambda storage: storage.delete(place))
    assert "missing" in run.verify(commit)[0]


def test_a_checkpoint_is_never_fetched_over_one_that_is_there(
    run: RemoteRun, checkpoints: Path
) -> None:
    commit = upload(run, checkpoints)
    before = contents(checkpoints / "step-00000100")
    with pytest.raises(StorageError, match="already exists"):
        run.fetch(commit, checkpoints / "step-00000100")
    assert contents(checkpoints / "step-00000100") == before


def test_a_cancelled_upload_can_be_discarded_a_committed_one_cannot(
    run: RemoteRun, checkpoints: Path
) -> None:
    token = new_token()
    call(run, lambda storage: storage.write(stored(run, f"{token}/x"), b"left"))
    run.discard(100, token)
    assert call(run, lambda storage: storage.names("")) == []
    commit = upload(run, checkpoints, token=token)
    run.discard(100, token)
    assert run.verify(commit, deep=True) == []


def test_the_beginning_of_an_attempt_is_written_once(run: RemoteRun, url: str) -> None:
    first = run.begin({"identity": "abc"})
    assert (first["run_id"], first["attempt"], first["identity"]) == ("my-run", 1, "abc")
    assert RemoteRun(url, None, "my-run", 1).begin({"identity": "other"}) == first
    run.other(12).begin()
    assert run.attempts() == [1, 12]
    assert RemoteRun(url, None, "another", 1).attempts() == []


def test_mirrored_files_are_replaced_and_read_back(run: RemoteRun, tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    assert (run.record(), run.completion(), run.read_file("run.json")) == (None, None, None)
    for state in ("running", "completed"):
        record.write_text(json.dumps({"state": state}))
        run.mirror({"run.json": record, "plots/loss.png": record})
        assert run.record() == {"state": state}
    assert run.names() == ["plots/loss.png", "run.json"]
    run.mirror({"gone.txt": tmp_path / "gone.txt", "again.json": record})
    assert run.names() == ["again.json", "plots/loss.png", "run.json"]
    record.write_text("{")
    run.mirror({"completion.json": record})
    with pytest.raises(StorageError, match=r"completion\.json is damaged"):
        run.completion()


def test_runs_are_listed_by_their_newest_attempt(
    run: RemoteRun, url: str, checkpoints: Path, tmp_path: Path
) -> None:
    assert list_runs(url) == []
    upload(run, checkpoints)
    later = run.other(2)
    commits = [upload(later, checkpoints, step) for step in (100, 200)]
    record = tmp_path / "run.json"
    record.write_text('{"state": "running"}')
    later.mirror({"run.json": record})
    call(run, lambda storage: storage.write("no-run/file", b""))
    (entry,) = list_runs(url)
    assert (entry.run_id, entry.attempts, entry.attempt) == ("my-run", (1, 2), 2)
    assert entry.steps == (100, 200)
    assert entry.record == {"state": "running"}
    assert entry.size == sum(commit.size for commit in commits)
    assert (entry.completion, entry.problem) == (None, "")
    name = "my-run/attempt-00002/checkpoints/step-00000100/COMMIT.json"
    call(run, lambda storage: storage.write(name, b""))
    (entry,) = list_runs(url)
    assert "is not the COMMIT" in entry.problem


def test_a_run_id_cannot_lead_out_of_the_storage(url: str) -> None:
    for name in ("..", "a/b", "", "a\\b"):
        with pytest.raises(StorageError, match="is not a valid folder name"):
            RemoteRun(url, None, name, 1)
