"""A model repository of the Hugging Face hub, which gets every model in one commit."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_token,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import disable_progress_bars

from llmforge.errors import DeployError
from llmforge.interfaces import ModelFolder, Outlook, Receipt
from llmforge_plugins.deployments._hf_errors import endpoint, patiently

MANIFEST = "llmforge.json"
"""Says which files were deployed: the next deployment deletes those that are no longer part."""

_READ_BACK = 1_000_000
"""Bytes up to which a file that Git holds itself is read back."""


@dataclass(frozen=True)
class _Head:
    """The newest commit: whether the repository is private, its files, and those put there."""

    commit: str
    private: bool
    files: Mapping[str, RepoFile]
    deployed: frozenset[str]


@dataclass(frozen=True)
class _Change:
    """What makes a head what it should be."""

    send: tuple[str, ...]
    delete: tuple[str, ...]


class HubRepository:
    """Deploys to the branch ``main``; see :class:`llmforge.interfaces.Deployment`.

    A commit is all or nothing. Large files are sent before it, and those that the hub has already
    are not sent again, whoever was interrupted.
    """

    def __init__(self, address: str, *, message: str) -> None:
        self.address = address
        self._name = address.removeprefix("hf://")
        self._message = message
        self._endpoint = endpoint()
        self._api = HfApi(endpoint=self._endpoint)
        if not sys.stderr.isatty():
            disable_progress_bars()

    @property
    def link(self) -> str:
        """The repository's page."""
        return f"{self._endpoint}/{self._name}"

    def look(self, folder: ModelFolder) -> Outlook:
        """Return what the commit would change."""
        self._require_token()
        head = patiently(self.address, lambda: self._head())
        if head is None:
            return Outlook(
                send=(*sorted(folder.files), MANIFEST),
                visible="private" if folder.private else "public",
                note="the repository is made",
                link=self.link,
            )
        change = self._change(head, folder)
        exposed = folder.private and not head.private
        return Outlook(
            revision=head.commit if change == _Change((), ()) else "",
            send=change.send,
            delete=change.delete,
            visible="private" if head.private else "public",
            note="refused: it is public, and this deployment is private" if exposed else "",
            link=self.link,
        )

    def publish(self, folder: ModelFolder, *, notice: Callable[[str], None]) -> Receipt:
        """Commit what is missing, and verify the commit."""
        self._require_token()
        return patiently(self.address, lambda: self._publish(folder, notice))

    # Publishing ----------------------------------------------------------------------------

    def _publish(self, folder: ModelFolder, notice: Callable[[str], None]) -> Receipt:
        head = self._head() or self._made(folder)
        if folder.private and not head.private:
            raise DeployError(
                f"{self.address} is public, and this deployment is private",
                remedy="--public (deploy.private = false) deploys there all the same; or make the "
                "repository private on the hub",
            )
        if not folder.private and head.private:
            notice(f"{self.address} is private and stays so: its settings on the hub change that")
        change = self._change(head, folder)
        commit = head.commit
        if change != _Change((), ()):
            commit = self._commit(head, change, folder)
        self._verify(commit, folder)
        return Receipt(revision=commit, sent=change.send, link=f"{self.link}/tree/{commit}")

    def _made(self, folder: ModelFolder) -> _Head:
        self._api.create_repo(self._name, private=folder.private, exist_ok=True)
        head = self._head()
        if head is None:
            raise DeployError(
                f"{self.address}: the name is taken by a repository that this token may not see",
                remedy="choose another name, or a token of somebody who may",
            )
        return head

    def _commit(self, head: _Head, change: _Change, folder: ModelFolder) -> str:
        for name in change.send:
            if name != MANIFEST and _sha256(folder.path / name) != folder.files[name].sha256:
                raise DeployError(
                    f"{folder.path / name} was altered: its SHA-256 differs",
                    remedy="nothing was committed; the same command deploys what is there now",
                )
        operations: list[Any] = [
            CommitOperationAdd(
                name, self._manifest(folder) if name == MANIFEST else folder.path / name
            )
            for name in change.send
        ]
        operations += [CommitOperationDelete(name) for name in change.delete]
        step = "" if folder.step is None else f", step {folder.step:,}"
        subject = f"{folder.run_id}{step}".strip(", ") or "a model"
        done = self._api.create_commit(
            self._name,
            operations,
            commit_message=self._message or f"Deploy {subject}",
            commit_description=f"Deployed by llmforge, files {folder.digest[:12]}.",
            parent_commit=head.commit,
        )
        return str(done.oid)

    def _verify(self, commit: str, folder: ModelFolder) -> None:
        """Compare every file of a commit by size and hash; small ones are read back, too."""
        expected = [*folder.files, MANIFEST]
        found = self._api.get_paths_info(self._name, expected, revision=commit)
        there = {item.path: item for item in found if isinstance(item, RepoFile)}
        wrong = [
            name
            for name in expected
            if name not in there or self._differs(there[name], commit, folder)
        ]
        if not wrong:
            small = [
                item.path for item in there.values() if item.lfs is None and item.size <= _READ_BACK
            ]
            wrong = [name for name in small if not self._reads_as(name, commit, folder)]
        if wrong:
            raise DeployError(
                f"{self.address} at commit {commit[:12]} is not what was sent: {', '.join(wrong)}",
                remedy="the same command again sends them once more",
            )

    def _reads_as(self, name: str, commit: str, folder: ModelFolder) -> bool:
        with tempfile.TemporaryDirectory(prefix="forge-hub-") as place:
            path = self._api.hf_hub_download(
                self._name, name, revision=commit, local_dir=place, force_download=True
            )
            digest = _sha256(Path(path))
        if name == MANIFEST:
            return digest == hashlib.sha256(self._manifest(folder)).hexdigest()
        return digest == folder.files[name].sha256

    # Looking -------------------------------------------------------------------------------

    def _head(self) -> _Head | None:
        """Return the newest commit; None when there is no such repository that one may see."""
        try:
            info = self._api.repo_info(self._name)
        except RepositoryNotFoundError as error:
            if error.response is not None and error.response.status_code == 401:
                self._api.whoami()  # says whether it is the token
            return None
        commit = str(info.sha)
        listed = self._api.list_repo_tree(self._name, recursive=True, revision=commit)
        files = {item.path: item for item in listed if isinstance(item, RepoFile)}
        return _Head(
            commit=commit,
            private=bool(info.private),
            files=files,
            deployed=self._deployed(commit) if MANIFEST in files else frozenset(),
        )

    def _deployed(self, commit: str) -> frozenset[str]:
        """Return the files that an earlier deployment put there, as it said."""
        try:
            with tempfile.TemporaryDirectory(prefix="forge-hub-") as place:
                path = self._api.hf_hub_download(
                    self._name, MANIFEST, revision=commit, local_dir=place, force_download=True
                )
                body = json.loads(Path(path).read_text(encoding="utf-8"))
            return frozenset(body["files"])
        except (EntryNotFoundError, ValueError, LookupError, TypeError):
            return frozenset()

    def _change(self, head: _Head, folder: ModelFolder) -> _Change:
        wanted = (*sorted(folder.files), MANIFEST)
        send = tuple(
            name
            for name in wanted
            if name not in head.files or self._differs(head.files[name], head.commit, folder)
        )
        gone = (head.deployed & head.files.keys()) - {*wanted}
        return _Change(send, tuple(sorted(gone)))

    def _differs(self, there: RepoFile, commit: str, folder: ModelFolder) -> bool:
        """Return whether a file of the repository is not that of the folder.

        The hub knows the SHA-256 of large files, and Git's name for the contents of the others;
        where that cannot be computed, because the folder is not here, the file is read.
        """
        if there.path == MANIFEST:
            return bool(there.blob_id != _git_name(self._manifest(folder)))
        entry = folder.files[there.path]
        if there.size != entry.size:
            return True
        if there.lfs is not None:
            return bool(there.lfs.sha256 != entry.sha256)
        local = folder.path / there.path
        if local.is_file():
            return bool(there.blob_id != _git_name(local.read_bytes()))
        return not self._reads_as(there.path, commit, folder)

    def _manifest(self, folder: ModelFolder) -> bytes:
        return (json.dumps(folder.description(), indent=1, ensure_ascii=False) + "\n").encode()

    def _require_token(self) -> None:
        if not get_token():
            raise DeployError(
                f"{self.address} needs a token of the hub that may write",
                remedy="set HF_TOKEN in the environment or in .env, or run: hf auth login",
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_name(content: bytes) -> str:
    """Return the name that Git gives to a file (``git hash-object``)."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
