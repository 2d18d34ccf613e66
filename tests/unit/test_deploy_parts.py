"""Deploying: how a place is opened and tried, and that storage keeps the contract of the kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmforge import Component, hookimpl, plugins
from llmforge.deploy import ExportChoices, Source, deploy, open_target, targets
from llmforge.deploy.storage_folder import StorageFolder
from llmforge.errors import DeployError, RunError
from llmforge.interfaces import DeployedFile, ModelFolder, Outlook, Receipt
from llmforge.plugins import address_problem
from llmforge.recipe import Recipe, load_recipe
from llmforge.remote import Connections
from llmforge.rundir import RunDirectory
from llmforge.rundir.deployments import DeploymentRecord, read_deployments
from llmforge.testing import DeployContract


class Folder(Component, kind="deploy"):
    """What the core itself makes of the URL of a storage."""

    address_form = "file:///PLACE"

    @hookimpl
    def forge_open_deployment(self, address: str) -> StorageFolder:
        return StorageFolder(
            Connections(address),
            archive="none",
            concurrency=2,
            staging=Path("staging").absolute(),
            record=DeploymentRecord(None),
        )


class TestStorageFolder(DeployContract):
    component = Folder

    def make_address(self, directory: Path) -> str:
        return f"file://{directory}/place"

    def published(self, address: str) -> Mapping[str, bytes] | None:
        place = Path(address.removeprefix("file://"))
        if not (place / "metadata.json").exists():
            return None
        metadata = json.loads((place / "metadata.json").read_text(encoding="utf-8"))
        return {
            name: (place / metadata["current"] / name).read_bytes() for name in metadata["files"]
        }


class Shelf(Component, kind="deploy"):
    """Keeps what it is given in memory, and fails when asked to."""

    address_form = "shelf:NAME"
    deployed: ClassVar[dict[str, str]] = {}
    failing: ClassVar[set[str]] = set()

    class Options(plugins.load("deploy", "hf").Options):  # type: ignore[misc]
        """The same options as another."""

    @hookimpl
    def forge_open_deployment(self, address: str) -> Any:
        component = self

        class Place:
            def __init__(self) -> None:
                self.address = address

            def look(self, folder: ModelFolder) -> Outlook:
                here = component.deployed.get(address) == folder.digest
                return Outlook(revision="1" if here else "", send=tuple(folder.files))

            def publish(self, folder: ModelFolder, *, notice: object) -> Receipt:
                del notice
                if address in component.failing:
                    raise RuntimeError("the shelf broke with hf_abcdefghijklmnopqrstuvwxyz0123")
                assert (folder.path / "a.txt").is_file()
                component.deployed[address] = folder.digest
                return Receipt(revision="1", sent=tuple(folder.files))

        return Place()


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> type[Shelf]:
    """The kind has this one component."""
    for module in (plugins, targets):
        known = module.entries
        monkeypatch.setattr(
            module,
            "entries",
            lambda kind, known=known: {"shelf": None} if kind == "deploy" else known(kind),
        )
        monkeypatch.setattr(module, "load", lambda *_: Shelf)
    monkeypatch.setattr(Shelf, "deployed", {})
    monkeypatch.setattr(Shelf, "failing", set())
    return Shelf


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("wikitext_tiny")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """An exported folder that counts as that of a run."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.txt").write_text("content", encoding="utf-8")
    directory = RunDirectory(tmp_path / "runs" / "run-1")
    directory.path.mkdir(parents=True)
    return Source(
        title="run-1",
        key="k",
        recipe=folder / "recipe.toml",
        directory=directory,
        checkpoint=None,
        choices=ExportChoices(),
        path=folder,
        facts={"run_id": "run-1", "step": 3},
    )


def test_forge_open_deployment_is_given_the_whole_address(
    shelf: type[Shelf], recipe: Recipe, tmp_path: Path
) -> None:
    """``forge_open_deployment`` gets it as the recipe has it."""
    record = DeploymentRecord(None)
    opened = open_target("shelf:one", recipe, record=record, staging=tmp_path)
    assert opened.address == "shelf:one"


def test_one_that_fails_keeps_no_other_from_its_turn(
    shelf: type[Shelf], recipe: Recipe, source: Source
) -> None:
    shelf.failing.add("shelf:b")
    told: list[str] = []
    addresses = ["shelf:a", "shelf:b", "shelf:c"]
    found = deploy(source, addresses, recipe, on_outcome=lambda outcome: told.append(outcome.to))
    assert told == addresses
    assert [outcome.receipt is not None for outcome in found] == [True, False, True]
    assert str(found[1].error) == "the shelf broke with ***"
    assert source.directory is not None
    assert [item.to for item in read_deployments(source.directory)] == ["shelf:a", "shelf:c"]
    shelf.failing.clear()
    again = deploy(source, addresses, recipe)
    assert [outcome.unchanged for outcome in again] == [True, False, True]


def test_two_processes_do_not_deploy_one_run_at_once(
    shelf: type[Shelf], recipe: Recipe, source: Source
) -> None:
    def second(_: object) -> None:
        with pytest.raises(DeployError, match="another process is deploying run-1"):
            deploy(source, ["shelf:b"], recipe)

    deploy(source, ["shelf:a"], recipe, on_outcome=second)
    assert list(shelf.deployed) == ["shelf:a"]


def test_a_record_keeps_one_deployment_for_each_address(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    folder = ModelFolder(path=tmp_path, files={"a": DeployedFile(1, "x")}, step=3)
    for revision in ("1", "2"):
        record = DeploymentRecord(directory)
        record.add("shelf:a", "key", folder, Receipt(revision=revision))
        record.set_tried("s3://x", ("v1",))
    record = DeploymentRecord(directory)
    newest = record.newest("shelf:a", "key")
    assert newest is not None
    assert (newest.revision, newest.files, newest.step) == ("2", folder.files, 3)
    assert record.newest("shelf:a", "other") is None
    assert record.tried("s3://x") == ("v1",)
    assert len(read_deployments(directory)) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"deployments": [{}], "tried": {}}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    directory = RunDirectory(tmp_path)
    directory.deployments.write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"deployments\.json is damaged"):
        DeploymentRecord(directory)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://acme/tiny-1.5_b", ""),
        ("mlflow:tiny", ""),
        ("s3://bucket/models/tiny", ""),
        ("file:///models/tiny", ""),
        ("hf://tiny", "is not the address of a model"),
        ("hf://acme/tiny/", "is not the address of a model"),
        ("hf://acme/../tiny", "is not the address of a model"),
        ("hf:acme/tiny", "is not the address of a model"),
        ("mlflow:", "is not the address of a model"),
        ("mlflow://tiny", "is not the address of a model"),
        ("models/tiny", "is not an address to deploy to"),
        ("", "is not an address to deploy to"),
        ("s3://", "is not an address to deploy to"),
    ],
)
def test_an_address_is_of_a_form_that_is_known(address: str, message: str) -> None:
    found, remedy = address_problem(address)
    assert message in found
    assert bool(message) == bool(found) == bool(remedy)


def test_what_was_tried_and_given_up_does_not_stay(tmp_path: Path) -> None:
    record = DeploymentRecord(RunDirectory(tmp_path))
    url = f"file://{tmp_path}/place"
    left = tmp_path / "place" / "step-00000001-aaaaaaaaaaaa"
    foreign = tmp_path / "place" / "step-00000002-bbbbbbbbbbbb"
    for folder in (left, foreign):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"x")
    record.set_tried(url, (left.name,))
    source = tmp_path / "model"
    source.mkdir()
    (source / "a.txt").write_text("content", encoding="utf-8")
    digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    folder = ModelFolder(path=source, files={"a.txt": DeployedFile(7, digest)})
    place = StorageFolder(
        Connections(url), archive="none", concurrency=1, staging=tmp_path, record=record
    )
    assert place.look(folder).delete == (f"{left.name}/",)
    place.publish(folder, notice=print)
    assert not left.exists()
    assert foreign.exists()  # perhaps of somebody who is deploying just now
    assert record.tried(url) == ()


def test_a_deployment_that_was_overtaken_deletes_nothing_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process names its version between the writing of ours and the tidying up."""
    url = f"file://{tmp_path}/place"
    source = tmp_path / "model"
    source.mkdir()

    def model(content: str) -> ModelFolder:
        (source / content).write_text(content, encoding="utf-8")
        digest = hashlib.sha256(content.encode()).hexdigest()
        return ModelFolder(path=source, files={content: DeployedFile(len(content), digest)})

    def place() -> StorageFolder:
        record = DeploymentRecord(None)
        return StorageFolder(
            Connections(url), archive="none", concurrency=1, staging=tmp_path, record=record
        )

    ours, name = place(), StorageFolder._name

    def overtaken(self: StorageFolder, *arguments: Any) -> None:
        name(self, *arguments)
        if self is ours:
            place().publish(model("theirs"), notice=print)

    place().publish(model("before"), notice=print)
    monkeypatch.setattr(StorageFolder, "_name", overtaken)
    ours.publish(model("ours"), notice=print)
    assert place().look(model("theirs")).revision
