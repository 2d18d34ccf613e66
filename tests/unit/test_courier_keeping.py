"""A checkpoint in a tracker's service counts as uploaded when it is the one here, and only then."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_generate_address import make_run

from llmforge.component import Component
from llmforge.courier.tracker_checkpoints import Keeping, kept_elsewhere
from llmforge.errors import CheckpointError
from llmforge.events import CheckpointSaved, MetricsLogged
from llmforge.hookspecs import hookimpl
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import KeptCheckpoint


class Attic(Component, kind="tracker"):
    """Keeps checkpoints in a folder: a fake of a service, for its faults."""

    name = "attic"
    address = "a/7"
    link = "attic 7"
    folder = Path()
    keeps_checkpoints = True

    @hookimpl
    def forge_open_tracked_run(self, address: str) -> Any:
        assert address == "a/7"
        return self

    def fetch(self, step: int, target: Path) -> None:
        shutil.copytree(self.folder / f"step-{step:08d}", target)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run with three checkpoints."""
    return make_run(tmp_path / "runs", "alpha")


@pytest.fixture
def attic(directory: RunDirectory, tmp_path: Path) -> Attic:
    """A tracker that has them all."""
    shutil.copytree(directory.checkpoints, tmp_path / "attic")
    tracker = Attic()
    tracker.folder = tmp_path / "attic"
    return tracker


@pytest.fixture
def told() -> list[KeptCheckpoint]:
    """What was told to be safe."""
    return []


@pytest.fixture
def look(
    directory: RunDirectory, attic: Attic, told: list[KeptCheckpoint]
) -> Callable[[int], None]:
    """A function that looks after the checkpoint of a step."""
    keeping = Keeping(directory, attic, on_kept=told.append)

    def look(step: int) -> None:
        path = f"checkpoints/step-{step:08d}"
        keeping(CheckpointSaved(step=step, path=path, size=1, is_best=False, seconds=0.1))

    return look


def test_a_checkpoint_that_is_there_counts(
    look: Callable[[int], None], directory: RunDirectory, told: list[KeptCheckpoint]
) -> None:
    look(2)
    assert kept_elsewhere(directory) == {2}
    assert [(item.step, item.tracker, item.address) for item in told] == [(2, "attic", "a/7")]
    assert [path.name for path in directory.uploads.iterdir()] == ["kept-00000002.json"]


def test_one_that_arrived_damaged_does_not_count(
    look: Callable[[int], None], directory: RunDirectory, attic: Attic
) -> None:
    path = attic.folder / "step-00000002" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="attic 7 is not sound and does not count"):
        look(2)
    assert kept_elsewhere(directory) == set()
    assert list(directory.uploads.iterdir()) == []


def test_another_checkpoint_of_that_step_does_not_count(
    look: Callable[[int], None], directory: RunDirectory, attic: Attic, tmp_path: Path
) -> None:
    other = make_run(tmp_path / "other", "alpha", best=None)
    shutil.rmtree(attic.folder)
    shutil.copytree(other.checkpoints, attic.folder)
    (attic.folder / "step-00000002").rename(attic.folder / "x")
    (attic.folder / "step-00000003").rename(attic.folder / "step-00000002")
    with pytest.raises(CheckpointError, match="it is another one"):
        look(2)
    assert kept_elsewhere(directory) == set()


def test_one_that_is_gone_here_is_not_asked_for(
    look: Callable[[int], None], directory: RunDirectory, attic: Attic
) -> None:
    shutil.rmtree(directory.checkpoints / "step-00000002")
    shutil.rmtree(attic.folder)
    look(2)
    assert kept_elsewhere(directory) == set()


def test_a_record_of_an_earlier_checkpoint_of_that_step_does_not_count(
    look: Callable[[int], None], directory: RunDirectory
) -> None:
    look(2)
    record = directory.uploads / "kept-00000002.json"
    record.write_text(record.read_text().replace('"created": "', '"created": "earlier'))
    assert kept_elsewhere(directory) == set()


def test_a_damaged_record_counts_as_none(
    look: Callable[[int], None], directory: RunDirectory
) -> None:
    look(2)
    (directory.uploads / "kept-00000002.json").write_text("{")
    assert kept_elsewhere(directory) == set()


def test_a_tracker_that_keeps_some_only_is_not_asked(
    look: Callable[[int], None], directory: RunDirectory, attic: Attic
) -> None:
    attic.keeps_checkpoints = False
    look(2)
    assert kept_elsewhere(directory) == set()


def test_other_events_are_nothing_to_look_after(
    directory: RunDirectory, attic: Attic, told: list[KeptCheckpoint]
) -> None:
    Keeping(directory, attic, on_kept=told.append)(MetricsLogged(step=2, values={}, time=0.0))
    assert told == []
