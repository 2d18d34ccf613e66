"""The contract of the kind ``deploy``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmforge.component import Component
from llmforge.interfaces import DeployedFile, Deployment, ModelFolder
from llmforge.plugins import address_problem
from llmforge.testing.contracts.base import Contract, build

FIRST = {
    "README.md": b"---\nlicense: mit\n---\n# A model\n",
    "model.safetensors": bytes(range(256)) * 4000,
    "tokenizer/vocabulary.json": b'{"a": 0}',
    "empty.txt": b"",
}
SECOND = {**FIRST, "README.md": b"---\nlicense: mit\n---\n# Another\n", "more.json": b"{}"}
del SECOND["tokenizer/vocabulary.json"]


class DeployContract(Contract):
    """Makes a folder what readers find, once and whole, and says beforehand what it would do."""

    def make_address(self, directory: Path) -> str:
        """Return the address of a place where nothing was deployed; override it."""
        raise NotImplementedError

    def published(self, address: str) -> Mapping[str, bytes] | None:
        """Return what a reader finds at ``address``, None when nothing; override it."""
        raise NotImplementedError

    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        """Where the tests deploy to."""
        return self.make_address(tmp_path)

    @pytest.fixture
    def deployment(self, plugin: Component, address: str) -> Deployment:
        """The place under test."""
        return _open(plugin, address)

    @pytest.fixture
    def first(self, tmp_path: Path) -> ModelFolder:
        """A model."""
        return _folder(tmp_path / "first", FIRST, step=1)

    @pytest.fixture
    def second(self, tmp_path: Path) -> ModelFolder:
        """The next one: a file more, one less, one changed."""
        return _folder(tmp_path / "second", SECOND, step=2)

    def test_its_address_has_the_form_it_says(self, plugin: Component, address: str) -> None:
        assert plugin.address_form.startswith(f"{address.partition(':')[0]}:")
        assert address_problem(address) == ("", "")

    def test_looking_changes_nothing(
        self, deployment: Deployment, address: str, first: ModelFolder
    ) -> None:
        outlook = deployment.look(first)
        assert not outlook.revision
        assert set(FIRST) <= set(outlook.send)
        assert self.published(address) is None

    def test_what_is_published_is_found(
        self, deployment: Deployment, address: str, first: ModelFolder
    ) -> None:
        receipt = deployment.publish(first, notice=_ignore)
        assert self.published(address) == FIRST
        assert receipt.revision
        assert set(FIRST) <= set(receipt.sent)
        assert deployment.look(first).revision == receipt.revision

    def test_the_folder_is_not_needed_to_look(
        self, deployment: Deployment, first: ModelFolder, tmp_path: Path
    ) -> None:
        receipt = deployment.publish(first, notice=_ignore)
        gone = replace(first, path=tmp_path / "gone")
        assert deployment.look(gone).revision == receipt.revision

    def test_the_same_again_sends_nothing(
        self, plugin: Component, deployment: Deployment, address: str, first: ModelFolder
    ) -> None:
        receipt = deployment.publish(first, notice=_ignore)
        again = _open(plugin, address).publish(first, notice=_ignore)
        assert again.revision == receipt.revision
        assert again.sent == ()
        assert self.published(address) == FIRST

    def test_the_next_one_takes_its_place(
        self, deployment: Deployment, address: str, first: ModelFolder, second: ModelFolder
    ) -> None:
        before = deployment.publish(first, notice=_ignore)
        assert not deployment.look(second).revision
        receipt = deployment.publish(second, notice=_ignore)
        assert receipt.revision != before.revision
        assert self.published(address) == SECOND
        assert not deployment.look(first).revision

    def test_a_file_that_changed_meanwhile_is_not_published(
        self, deployment: Deployment, address: str, first: ModelFolder, second: ModelFolder
    ) -> None:
        deployment.publish(first, notice=_ignore)
        (second.path / "model.safetensors").write_bytes(b"changed since it was hashed")
        (second.path / "more.json").write_bytes(b"[]")
        with pytest.raises(Exception):  # noqa: B017  # whatever it raises, with its own message
            deployment.publish(second, notice=_ignore)
        assert self.published(address) == FIRST


def _open(plugin: Component, address: str) -> Deployment:
    opened: Deployment = build(plugin, "forge_open_deployment", address=address)
    return opened


def _folder(path: Path, files: Mapping[str, bytes], **facts: Any) -> ModelFolder:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    entries = {
        name: DeployedFile(len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    }
    return ModelFolder(path=path, files=entries, run_id="run", recipe_hash="0" * 64, **facts)


def _ignore(_: str) -> None:
    pass
