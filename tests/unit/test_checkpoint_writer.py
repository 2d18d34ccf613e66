"""The writer: snapshots keep their state, one is written and one waits, errors are told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llmforge.checkpoint import (
    CheckpointWriter,
    Retention,
    SavedCheckpoint,
    SaveRequest,
    SelfDescription,
    list_checkpoints,
    load_tensors,
    read_metadata,
    read_trainer,
    verify,
    writer,
)
from llmforge.checkpoint.host_tensors import HostBuffer
from llmforge.errors import CheckpointError


def request(step: int, **changes: object) -> SaveRequest:
    values: dict[str, object] = {
        "step": step,
        "model": {"w": torch.full((1000,), float(step))},
        "optimizer": {"w/exp_avg": torch.full((1000,), float(-step))},
        "trainer": {"samples": step * 16},
        "metadata": {"loss": [1.5, 1.25]},
    }
    return SaveRequest(**{**values, **changes})  # type: ignore[arg-type]


class Disk:
    """A fault put in: a disk on which no write of a checkpoint ends before ``release``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        real = writer.publish

        def slow(directory: Path, *, draft: writer.Draft, crew: None) -> object:
            self.started.release()
            assert self.gate.acquire(timeout=20)
            return real(directory, draft=draft, crew=crew)

        monkeypatch.setattr(writer, "publish", slow)

    def release(self, count: int = 1) -> None:
        self.gate.release(count)

    def wait_for_start(self) -> None:
        assert self.started.acquire(timeout=20)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    slow = Disk(monkeypatch)
    yield slow
    slow.release(10)


class Run:
    """A writer with a list of what it saved."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.saved: list[SavedCheckpoint] = []
        self.writer = CheckpointWriter(
            directory,
            **{
                "description": SelfDescription(recipe="[run]\n", recipe_hash="0123"),
                "retention": Retention(keep_last=3),
                "on_saved": self.saved.append,
                **options,
            },
        )


def test_a_checkpoint_holds_everything_and_describes_itself(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    (tokenizer / "nested").mkdir(parents=True)
    (tokenizer / "vocab.json").write_text("[]")
    (tokenizer / "nested" / "merges.txt").write_text("a b")
    description = SelfDescription(recipe="[run]\n", recipe_hash="0123", tokenizer=tokenizer)
    run = Run(tmp_path / "checkpoints", description=description)
    assert run.writer.submit(request(100, is_best=True))
    run.writer.close()

    path = tmp_path / "checkpoints" / "step-00000100"
    [checkpoint] = list_checkpoints(tmp_path / "checkpoints")
    assert verify(path) == []
    assert checkpoint.manifest.recipe_hash == "0123"
    assert checkpoint.is_best
    assert set(checkpoint.manifest.files) == {
        "recipe.toml",
        "trainer.json",
        "metadata.json",
        "model.safetensors",
        "optimizer.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/nested/merges.txt",
    }
    assert (path / "recipe.toml").read_text() == "[run]\n"
    assert (path / "tokenizer" / "nested" / "merges.txt").read_text() == "a b"
    assert read_trainer(path) == {"samples": 1600}
    assert read_metadata(path) == {"loss": [1.5, 1.25]}
    assert torch.equal(load_tensors(path, "model")["w"], torch.full((1000,), 100.0))
    assert torch.equal(load_tensors(path, "optimizer")["w/exp_avg"], torch.full((1000,), -100.0))


def test_listeners_hear_of_valid_checkpoints_in_order(tmp_path: Path) -> None:
    seen: list[tuple[int, list[str]]] = []
    run = Run(tmp_path, on_saved=lambda saved: seen.append((saved.step, verify(saved.path))))
    for step in (1, 2):
        run.writer.submit(request(step, required=True))
    run.writer.close()
    assert seen == [(1, []), (2, [])]


def test_what_listeners_hear_is_right(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.writer.submit(request(1))
    run.writer.flush()
    run.writer.submit(request(2, is_best=True))
    run.writer.close()
    first, second = run.saved
    assert (first.step, first.is_best, second.step, second.is_best) == (1, False, 2, True)
    assert second.path == tmp_path / "step-00000002"
    assert second.size == list_checkpoints(tmp_path)[1].manifest.size > 8000
    assert 0 < second.seconds < 20


def test_each_checkpoint_names_its_parent(tmp_path: Path) -> None:
    run = Run(tmp_path, parent=50)
    for step in (100, 200):
        run.writer.submit(request(step, required=True))
    run.writer.close()
    assert [item.manifest.parent for item in list_checkpoints(tmp_path)] == [50, 100]


def test_changes_after_submit_do_not_reach_the_file(tmp_path: Path, disk: Disk) -> None:
    run = Run(tmp_path)
    live = request(100)
    trainer = {"losses": [1.0]}
    run.writer.submit(request(100, model=live.model, optimizer=live.optimizer, trainer=trainer))
    live.model["w"].zero_()
    live.optimizer["w/exp_avg"].zero_()
    trainer["losses"].append(2.0)
    disk.release()
    run.writer.close()
    path = tmp_path / "step-00000100"
    assert torch.equal(load_tensors(path, "model")["w"], torch.full((1000,), 100.0))
    assert torch.equal(load_tensors(path, "optimizer")["w/exp_avg"], torch.full((1000,), -100.0))
    assert read_trainer(path) == {"losses": [1.0]}


def test_one_is_written_one_waits_and_a_third_is_skipped_and_logged(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    assert run.writer.submit(request(1))
    disk.wait_for_start()
    assert run.writer.submit(request(2))
    assert not run.writer.submit(request(3))
    assert "checkpoint of step 3 skipped: the disk is still busy with step 1" in caplog.text
    disk.release(2)
    run.writer.close()
    assert [saved.step for saved in run.saved] == [1, 2]
    for step in (1, 2):
        tensors = load_tensors(tmp_path / f"step-{step:08d}", "model")
        assert torch.equal(tensors["w"], torch.full((1000,), float(step)))


@pytest.mark.parametrize("reason", ["required", "is_best"])
def test_a_required_one_and_a_best_one_wait_for_room(
    tmp_path: Path, disk: Disk, reason: str
) -> None:
    run = Run(tmp_path)
    run.writer.submit(request(1))
    disk.wait_for_start()
    run.writer.submit(request(2))
    submitted = threading.Event()

    def submit() -> None:
        assert run.writer.submit(request(3, **{reason: True}))
        submitted.set()

    thread = threading.Thread(target=submit)
    thread.start()
    assert not submitted.wait(0.2)
    disk.release()
    assert submitted.wait(20)
    thread.join()
    disk.release(2)
    run.writer.close()
    assert [saved.step for saved in run.saved] == [1, 2, 3]


def test_submit_does_not_wait_for_the_disk(tmp_path: Path, disk: Disk) -> None:
    run = Run(tmp_path)
    begin = time.monotonic()
    run.writer.submit(request(1))
    run.writer.submit(request(2))
    assert time.monotonic() - begin < 5  # The disk would never have answered.
    assert run.saved == []
    disk.release(2)
    run.writer.close()


def test_two_blocks_of_memory_serve_any_number_of_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[int] = []
    real = HostBuffer.__init__

    def counted(self: HostBuffer) -> None:
        blocks.append(1)
        real(self)

    monkeypatch.setattr(HostBuffer, "__init__", counted)
    run = Run(tmp_path)
    first = request(0)
    run.writer.prepare(first.model, first.optimizer)
    assert run.writer._idle[0].nbytes > 8000  # Laid out and allocated before the first submit.
    for step in range(1, 4):
        run.writer.submit(request(step))
        run.writer.flush()
    assert len(blocks) == 2  # One for the model and one for the optimizer.
    for step in range(4, 12):
        run.writer.submit(request(step, required=True))
    run.writer.close()
    assert len(blocks) <= 4
    assert [saved.step for saved in run.saved] == list(range(1, 12))


def test_retention_runs_after_each_and_spares_what_is_protected(tmp_path: Path) -> None:
    run = Run(tmp_path, retention=Retention(keep_last=2), protected=lambda: [2])
    for step in range(1, 7):
        run.writer.submit(request(step, required=True, is_best=step == 3))
    run.writer.close()
    assert [item.step for item in list_checkpoints(tmp_path)] == [2, 3, 5, 6]


def test_flush_gives_up_after_its_time(tmp_path: Path, disk: Disk) -> None:
    run = Run(tmp_path)
    run.writer.submit(request(7))
    with pytest.raises(CheckpointError, match=r"step 7 was not on disk after 0\.1 s"):
        run.writer.flush(0.1)
    disk.release()
    run.writer.flush(20)
    run.writer.close()
    assert [saved.step for saved in run.saved] == [7]


def test_close_gives_up_after_its_time_without_waiting_for_the_thread(
    tmp_path: Path, disk: Disk
) -> None:
    run = Run(tmp_path)
    run.writer.submit(request(7))
    with pytest.raises(CheckpointError, match="step 7"):
        run.writer.close(0.1)
    disk.release()
    run.writer.close()
    run.writer.close()


class FullDisk:
    """A fault put in: forcing a file to the disk fails as on a full one, until there is room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch.context()
        faults = self._patch.__enter__()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        faults.setattr("llmforge.checkpoint.hashed_files.os.fsync", full)

    def make_room(self) -> None:
        self._patch.__exit__(None, None, None)


@pytest.mark.parametrize("notice", ["flush", "submit", "close"])
def test_a_full_disk_is_told_once_at_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notice: str
) -> None:
    run = Run(tmp_path)
    run.writer.submit(request(1))
    run.writer.flush()
    disk = FullDisk(monkeypatch)
    run.writer.submit(request(2))
    while run.writer._writing or run.writer._waiting:
        time.sleep(0.01)
    disk.make_room()
    call = {
        "flush": run.writer.flush,
        "submit": lambda: run.writer.submit(request(3)),
        "close": run.writer.close,
    }[notice]
    with pytest.raises(CheckpointError, match=r"no room for the checkpoint of step 2") as caught:
        call()
    assert "free some space" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-00000001"]
    if notice != "close":
        assert run.writer.submit(request(4))
        run.writer.close()
        assert [saved.step for saved in run.saved] == [1, 4]


def test_too_little_space_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    run = Run(tmp_path / "new")
    with monkeypatch.context() as faults:
        faults.setattr("shutil.disk_usage", lambda _: Usage)
        run.writer.submit(request(1))
        with pytest.raises(CheckpointError, match=r"8\.\d kB are needed, 1\.0 kB are free"):
            run.writer.flush()
    assert not (tmp_path / "new").exists()
    run.writer.close()


def test_an_error_of_a_listener_is_told(tmp_path: Path) -> None:
    def fails(saved: SavedCheckpoint) -> None:
        raise RuntimeError("journal closed")

    run = Run(tmp_path, on_saved=fails)
    run.writer.submit(request(1))
    with pytest.raises(CheckpointError, match=r"step 1 failed.*journal closed"):
        run.writer.close()
    assert verify(tmp_path / "step-00000001") == []


def test_state_that_is_no_json_is_refused_and_the_writer_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(CheckpointError, match=r"trainer state cannot be written as JSON.*set"):
        run.writer.submit(request(1, trainer={"x": {1}}))
    assert run.writer.submit(request(2))
    run.writer.close()
    assert [saved.step for saved in run.saved] == [2]


def test_empty_state_and_numbers_come_back_exactly(tmp_path: Path) -> None:
    run = Run(tmp_path)
    trainer = {"best": float("inf"), "rate": 0.1 + 0.2, "big": 2**70}
    run.writer.submit(request(1, trainer=trainer, metadata={}))
    run.writer.close()
    assert read_trainer(tmp_path / "step-00000001") == trainer
    assert read_metadata(tmp_path / "step-00000001") == {}


def test_leftovers_of_a_killed_process_are_removed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-00000001-4711").mkdir()
    with Run(tmp_path).writer:
        assert list(tmp_path.iterdir()) == []


def test_leaving_the_block_closes_the_writer(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.writer:
        run.writer.submit(request(1))
    assert [saved.step for saved in run.saved] == [1]
    assert not run.writer._thread.is_alive()


def test_an_error_in_the_block_is_not_hidden_by_one_of_the_writer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(saved: SavedCheckpoint) -> None:
        raise RuntimeError("journal closed")

    with pytest.raises(ZeroDivisionError), Run(tmp_path, on_saved=fails).writer as open_writer:
        open_writer.submit(request(1))
        raise ZeroDivisionError
    assert "journal closed" in caplog.text


def test_nothing_is_logged_when_all_goes_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Run(tmp_path).writer as open_writer:
        open_writer.submit(request(1))
    assert caplog.messages == []
