"""Checkpoints of runs that a tracker knows: chosen, fetched once, verified, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_parts import RECIPE, parts, parts_folder, write

from llmforge import plugins
from llmforge.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    Retention,
    SaveRequest,
    SelfDescription,
    verify,
)
from llmforge.component import Component
from llmforge.errors import CheckpointError, RunError, UsageError
from llmforge.generation import locate
from llmforge.hookspecs import hookimpl
from llmforge.interfaces import TrackedCheckpoint
from llmforge.recipe import identity, load_recipe, to_toml
from llmforge.remote import RemoteRun, new_token
from llmforge.rundir import RunDirectory, RunRecord, write_record

__all__ = ["parts", "parts_folder"]  # fixtures

Locate = Callable[[str], Checkpoint]


class ShelfRun:
    """A run whose artifacts are in a folder: a fake of a service, for choices and faults."""

    def __init__(self, path: Path, *, kept: tuple[int, ...], attempt: int = 1) -> None:
        self.run_id = "tracked-1"
        self.attempt = attempt
        self.link = "shelf 7"
        self.fetched: list[int] = []
        self.path = path
        self.kept = kept
        self.best = 2

    def recipe(self) -> str | None:
        return (self.path / "recipe.toml").read_text()

    def checkpoints(self) -> list[TrackedCheckpoint]:
        return [TrackedCheckpoint(step=step, is_best=step == self.best) for step in self.kept]

    def fetch(self, step: int, target: Path) -> None:
        self.fetched.append(step)
        shutil.copytree(self.path / "checkpoints" / f"step-{step:08d}", target)


class Shelf(Component, kind="tracker"):
    """Has one run, or an error."""

    run: Any = None
    asked: list[tuple[str, Path]] = []  # noqa: RUF012  # told by the test's own component

    @hookimpl
    def forge_open_tracked_run(self, address: str, root: Path) -> Any:
        self.asked.append((address, root))
        if isinstance(self.run, Exception):
            raise self.run
        return self.run


@pytest.fixture
def shelf(parts: Path, monkeypatch: pytest.MonkeyPatch) -> ShelfRun:
    """The tracker ``shelf`` with a run of three checkpoints, steps 2 and 3 among its artifacts."""
    monkeypatch.setenv("FORGE_CACHE", str(parts / "cache"))
    real_entries, real_load = plugins.entries, plugins.load
    entry = {"shelf": real_entries("tracker")["csv"]}
    monkeypatch.setattr(
        plugins,
        "entries",
        lambda kind: real_entries(kind) | (entry if kind == "tracker" else {}),
    )
    monkeypatch.setattr(
        plugins,
        "load",
        lambda kind, name: Shelf if name == "shelf" else real_load(kind, name),
    )
    monkeypatch.setattr(Shelf, "name", "shelf")
    monkeypatch.setattr(Shelf, "asked", [])
    run = ShelfRun(make_run(parts / "elsewhere", parts).path, kept=(2, 3))
    monkeypatch.setattr(Shelf, "run", run)
    return run


def make_run(root: Path, place: Path, *, text: str = RECIPE, attempt: int = 1) -> RunDirectory:
    """Write a run with checkpoints of steps 1 to 3, the second one the best."""
    recipe = load_recipe(write(place / "r.toml", text))
    own = identity(recipe)
    directory = RunDirectory(root / "tracked-1")
    directory.path.mkdir(parents=True)
    resolved = to_toml(recipe.tables)
    directory.recipe.write_text(resolved)
    body = {"hash": own.hash, "keys": dict(own.keys)}
    write_record(directory, RunRecord("tracked-1", identity=body, attempt=attempt))
    with CheckpointWriter(
        directory.checkpoints,
        description=SelfDescription(recipe=resolved, recipe_hash=own.hash),
        retention=Retention(keep_last=3, keep_best=1),
        on_saved=lambda _: None,
    ) as writer:
        for step in (1, 2, 3):
            writer.submit(
                SaveRequest(
                    step=step,
                    model={"w": torch.full((1,), float(step))},
                    optimizer={},
                    trainer={},
                    metadata={},
                    is_best=step == 2,
                    required=True,
                )
            )
    return directory


@pytest.fixture
def find(shelf: ShelfRun, parts: Path) -> Locate:
    return lambda address: locate(address, root=parts / "runs")


def test_forge_open_tracked_run_is_given_the_address(find: Locate, parts: Path) -> None:
    found = find("shelf:us/project/7@last")
    assert found.step == 3
    assert verify(found.path) == []
    assert Shelf.asked == [("us/project/7", parts / "runs")]  # by forge_open_tracked_run


@pytest.mark.parametrize(
    ("which", "step"), [("", 2), ("@best", 2), ("@last", 3), ("@2", 2), ("@3", 3)]
)
def test_the_checkpoint_that_is_meant_is_fetched(
    find: Locate, shelf: ShelfRun, which: str, step: int
) -> None:
    assert find(f"shelf:7{which}").step == step
    assert shelf.fetched == [step]


def test_without_a_best_one_the_last_is_meant(find: Locate, shelf: ShelfRun) -> None:
    shelf.best = 0
    assert find("shelf:7").step == 3


def test_what_was_fetched_is_not_fetched_again_while_it_is_sound(
    find: Locate, shelf: ShelfRun
) -> None:
    first, second = find("shelf:7"), find("shelf:7")
    assert shelf.fetched == [2]
    assert first.path == second.path
    (first.path / "model.safetensors").write_bytes(b"broken")
    assert verify(find("shelf:7").path) == []
    assert shelf.fetched == [2, 2]


def test_a_run_that_is_here_is_taken_from_here(find: Locate, shelf: ShelfRun, parts: Path) -> None:
    here = make_run(parts / "runs", parts)
    found = find("shelf:7@1")  # a step the tracker does not even keep
    assert found.path == here.checkpoints / "step-00000001"
    assert shelf.fetched == []


def test_what_the_run_here_has_deleted_is_fetched(
    find: Locate, shelf: ShelfRun, parts: Path
) -> None:
    here = make_run(parts / "runs", parts)
    shutil.rmtree(here.checkpoints / "step-00000003")
    assert find("shelf:7@3").step == 3
    assert shelf.fetched == [3]


@pytest.mark.parametrize(
    "other", [{"attempt": 2}, {"text": RECIPE.replace("batch_size = 4", "batch_size = 8")}]
)
def test_another_run_of_that_id_is_not_taken_for_it(
    find: Locate, shelf: ShelfRun, parts: Path, other: dict[str, Any]
) -> None:
    make_run(parts / "runs", parts, **other)
    find("shelf:7")
    assert shelf.fetched == [2]


def test_a_checkpoint_that_arrives_damaged_is_refused_and_not_kept(
    find: Locate, shelf: ShelfRun, parts: Path
) -> None:
    model = shelf.path / "checkpoints" / "step-00000002" / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(CheckpointError, match="from shelf 7 is not sound: model"):
        find("shelf:7")
    assert list((parts / "cache").rglob("model.safetensors")) == []


def test_a_checkpoint_of_another_step_is_refused(find: Locate, shelf: ShelfRun) -> None:
    there = shelf.path / "checkpoints"
    shutil.rmtree(there / "step-00000002")
    shutil.copytree(there / "step-00000001", there / "step-00000002")
    with pytest.raises(CheckpointError, match="it is not of step 2"):
        find("shelf:7")


def test_a_step_that_is_kept_nowhere_is_told_with_those_that_are(find: Locate) -> None:
    with pytest.raises(CheckpointError, match="shelf 7 has no checkpoint '1'") as caught:
        find("shelf:7@1")
    assert caught.value.remedy == "it has: 2, 3"


def test_a_run_without_kept_checkpoints_says_how_to_keep_some(
    find: Locate, shelf: ShelfRun
) -> None:
    shelf.kept = ()
    with pytest.raises(CheckpointError, match="has no checkpoint of tracked-1") as caught:
        find("shelf:7")
    assert "storage.url" in caught.value.remedy


def test_a_checkpoint_comes_from_the_runs_storage_when_the_tracker_has_none(
    find: Locate, shelf: ShelfRun, parts: Path
) -> None:
    url = (parts / "stored").as_uri()
    shutil.rmtree(parts / "elsewhere")
    stored = make_run(parts / "elsewhere", parts, text=f'{RECIPE}[storage]\nurl = "{url}"\n')
    remote = RemoteRun(url, None, "tracked-1", 1)
    for step in (1, 2):
        remote.upload(stored.checkpoints / f"step-{step:08d}", token=new_token())
    shelf.kept = (3,)
    assert find("shelf:7@best").step == 2
    assert find("shelf:7@1").step == 1
    assert shelf.fetched == []
    assert find("shelf:7@last").step == 3


def test_a_tracker_that_keeps_none_says_so(find: Locate) -> None:
    with pytest.raises(UsageError, match="tracker 'paper' has no checkpoints to fetch"):
        find("paper:7")


def test_what_a_services_package_raises_becomes_one_message(
    find: Locate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shelf, "run", ConnectionError("nobody at http://me:canary@host"))
    with pytest.raises(RunError) as caught:
        find("shelf:7")
    assert str(caught.value) == "tracker shelf: nobody at http://***@host"


@pytest.mark.parametrize("run_id", ["", "..", "a/b"])
def test_a_run_that_is_none_of_ours_is_refused(find: Locate, shelf: ShelfRun, run_id: str) -> None:
    shelf.run_id = run_id
    with pytest.raises(RunError, match="shelf 7 is not a run of llmforge"):
        find("shelf:7")


def test_a_path_of_that_name_comes_first(find: Locate, parts: Path) -> None:
    make_run(parts / "shelf:7", parts)
    found = find("shelf:7/tracked-1/checkpoints/step-00000001")
    assert found.step == 1
    assert Shelf.asked == []
