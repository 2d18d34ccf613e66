"""The real courier process on a network that fails every second request, and killed on the way."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from servers import FaultProxy, Faults, Server

from llmforge.checkpoint import Retention, list_checkpoints
from llmforge.checkpoint.hashed_files import write_file
from llmforge.checkpoint.publish import Draft, FileWriter, publish
from llmforge.checkpoint.retention import apply_retention
from llmforge.courier import Courier
from llmforge.recipe import Recipe, load_recipe
from llmforge.remote import RemoteRun
from llmforge.run.reporting.upload_status import UploadWatch
from llmforge.rundir import RunDirectory, RunLock

RECIPE = """\
[model]
name = "transformer"
[data]
name = "text"
[data.text]
train = "x.txt"
[train]
max_steps = 5
[tracker]
names = []
[checkpoint]
keep_last = 2
[storage]
url = "{url}"
queue = 1000
stall_seconds = 1.0
delete_local_after_upload = true
"""
RETENTION = Retention(keep_last=2, keep_best=1)


@dataclass
class Trainer:
    """What the training process does about its checkpoints, without training.

    Attributes:
        directory: the run.
        watch: hears of the uploads.
        server: the storage behind the faulty network, asked directly.
        written: the hashes of every checkpoint ever written, by step.
        deleted: the steps that were deleted here.
        early: those of them that storage did not have then.
    """

    directory: RunDirectory
    watch: UploadWatch
    server: RemoteRun
    written: dict[int, dict[str, str]] = field(default_factory=dict)
    deleted: list[int] = field(default_factory=list)
    early: list[int] = field(default_factory=list)

    def save(self, step: int) -> None:
        """Publish a checkpoint, then delete what may go, as the checkpoint writer does."""
        draft = Draft(step=step, recipe_hash="0123", is_best=step % 7 == 0, files=_files(step))
        path = publish(self.directory.checkpoints, draft=draft).path
        self.written[step] = _hashes(path)
        self.clean()

    def clean(self) -> None:
        """Delete what may go, and ask storage whether it has each of them."""
        gone = apply_retention(
            self.directory.checkpoints,
            retention=RETENTION,
            protected=self.watch.protected(),
            elsewhere=self.watch.elsewhere(),
        )
        self.deleted += gone
        self.early += [step for step in gone if self.server.commit(step) is None]


@pytest.fixture
def trainer(tmp_path: Path, s3: Server, s3_url: str) -> Trainer:
    directory = RunDirectory(tmp_path / "runs" / "mine")
    directory.path.mkdir(parents=True)
    directory.recipe.write_text(RECIPE.format(url=s3_url))
    directory.record.write_text('{"run_id": "mine", "attempt": 1}')
    directory.metrics.write_text('{"step": 1}\n')
    server = RemoteRun(s3_url, {"endpoint_url": s3.url}, "mine", 1)
    recipe: Recipe = load_recipe(directory.recipe)
    watch = UploadWatch(directory, recipe.storage, place=server.url, on_committed=lambda *_: None)
    return Trainer(directory, watch, server)


@contextlib.contextmanager
def courier(trainer: Trainer) -> Iterator[Courier]:
    """Run the real courier, uploading."""
    with RunLock(trainer.directory.root, trainer.directory.id):
        process = Courier(trainer.directory, on_error=lambda *_: None, on_upload=trainer.watch)
        try:
            assert process.problems() == []
            process.begin_uploads()
            yield process
        finally:
            process.kill()


def _files(step: int) -> dict[str, FileWriter]:
    weights = hashlib.shake_256(str(step).encode()).digest(20_000)

    def writer(data: bytes) -> FileWriter:
        return lambda path: write_file(path, [data])

    contents = {"model.safetensors": weights, "trainer.json": b"{}"}
    return {name: writer(data) for name, data in contents.items()}


def _hashes(path: Path) -> dict[str, str]:
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize(
    ("uploads", "share"),
    [
        (4, 0.5),
        pytest.param(200, 1.0, marks=[pytest.mark.slow, pytest.mark.timeout(3000)]),
    ],
)
def test_with_requests_failing_and_stalling_all_is_committed_and_nothing_deleted_early(
    trainer: Trainer, s3_proxy: FaultProxy, uploads: int, share: float
) -> None:
    """A ``share`` of 1 is half of all requests."""
    rates = {"error": 0.25, "cut": 0.1, "lost": 0.1, "stall": 0.05}
    s3_proxy.faults = Faults(**{name: rate * share for name, rate in rates.items()})
    s3_proxy.stall_seconds = 4.0
    with courier(trainer) as process:
        for step in range(1, uploads + 1):
            trainer.save(step)
            if step > 4:  # as far ahead of its uploads as a run may be
                trainer.watch.wait_for(step - 4, stop=lambda: False)
            if step == uploads // 2:  # it is started again, and resumes where it was
                os.kill(process._process.pid, signal.SIGKILL)
        found = process.finish_uploads(1500)
    assert found is not None
    assert (found["pending"], found["mirrored"]) == ([], True)
    trainer.clean()

    assert len(s3_proxy.suffered) > 0.3 * share * len(s3_proxy.seen)
    commits = {commit.step: commit for commit in trainer.server.commits()}
    assert [*commits] == [*range(1, uploads + 1)]
    for step, commit in commits.items():
        assert {name: entry.sha256 for name, entry in commit.files.items()} == trainer.written[step]
        assert trainer.server.verify(commit, deep=True) == []
    assert trainer.early == []
    here = [item.step for item in list_checkpoints(trainer.directory.checkpoints)]
    assert sorted([*here, *trainer.deleted]) == [*range(1, uploads + 1)]
    best = max((step for step in range(1, uploads + 1) if step % 7 == 0), default=uploads)
    assert here == sorted({best, uploads})


def test_a_courier_that_died_just_before_the_end_is_started_again_to_finish(
    trainer: Trainer,
) -> None:
    with courier(trainer) as process:
        trainer.save(1)
        os.kill(process._process.pid, signal.SIGKILL)
        found = process.finish_uploads(60)
    assert found is not None
    assert (found["pending"], found["mirrored"]) == ([], True)
    assert [commit.step for commit in trainer.server.commits()] == [1]


def test_an_orphaned_courier_leaves_when_somebody_trains_the_run_again(
    trainer: Trainer, s3_proxy: FaultProxy
) -> None:
    """Faults put in: storage answers nothing, so the courier is busy when its trainer dies."""
    s3_proxy.faults = Faults(stall=1.0)
    trainer.save(1)
    first = Courier(trainer.directory, on_error=lambda *_: None)
    assert first.problems() == []
    first.begin_uploads()
    assert first._process.stdin is not None
    first._ending = True
    first._process.stdin.close()  # all that it hears of a trainer that was killed
    s3_proxy.faults = Faults()
    with courier(trainer) as second:
        assert first._process.wait(timeout=3) == 0
        found = second.finish_uploads(30)
    assert found is not None
    assert found["pending"] == []
