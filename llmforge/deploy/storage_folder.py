"""A model in storage: each version in a folder of its own, and ``metadata.json``, which names one.

::

    s3://bucket/models/tiny/
      metadata.json                        written last; ``current`` names the version
      step-00000600-3f9a1c0e7b52/…         the files, or model.tar.gz

Whoever starts from ``metadata.json`` finds a version that is complete, whatever was interrupted.
A version's name follows from its contents, so that a further try continues the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.checkpoint.hashed_files import hash_file
from llmforge.deploy.source import entries_of
from llmforge.errors import DeployError
from llmforge.interfaces import ModelFolder, Outlook, Receipt
from llmforge.progress import track
from llmforge.remote import Connections
from llmforge.remote.archive import pack
from llmforge.remote.layout import is_safe
from llmforge.remote.transfer import (
    Source,
    arrived,
    for_each,
    read,
    send,
    source_of,
    stored_size,
)
from llmforge.rundir.deployments import DeploymentRecord

METADATA = "metadata.json"
ARCHIVE = "model.tar.gz"


@dataclass(frozen=True)
class _There:
    """What ``metadata.json`` says: the version, its objects with their sizes, older versions."""

    version: str
    objects: Mapping[str, int]
    superseded: tuple[str, ...]


class StorageFolder:
    """Deploys to a folder of any storage; see :class:`llmforge.interfaces.Deployment`.

    Args:
        connections: to the folder.
        archive: ``none`` or ``tar.gz``.
        concurrency: files sent at once.
        staging: a local directory for the archive.
        record: knows which versions were tried from here, so that they do not stay for ever.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        archive: str,
        concurrency: int,
        staging: Path,
        record: DeploymentRecord,
    ) -> None:
        self.address = connections.url
        self._connections = connections
        self._archive = archive
        self._concurrency = concurrency
        self._staging = staging
        self._record = record

    def look(self, folder: ModelFolder) -> Outlook:
        """Return what would be done."""
        version = self._version(folder)
        there = self._there()
        old = self._older(version, there)
        if there is not None and there.version == version:
            missing = [name for name, size in there.objects.items() if self._size(name) != size]
            if not missing:
                done = "" if old else version
                return self._outlook(version, old, revision=done)
        names = folder.files if self._archive == "none" else (ARCHIVE,)
        sizes = {name: file.size for name, file in folder.files.items()}
        to_send = [
            name
            for name in names
            if sizes.get(name) is None or self._size(f"{version}/{name}") != sizes[name]
        ]
        return self._outlook(version, old, send=tuple(to_send))

    def _outlook(
        self, version: str, old: list[str], *, revision: str = "", send: tuple[str, ...] = ()
    ) -> Outlook:
        return Outlook(
            revision=revision,
            send=send,
            delete=tuple(f"{name}/" for name in old),
            visible="seen by whoever may read the storage",
            link=self._link(version),
        )

    def publish(self, folder: ModelFolder, *, notice: Callable[[str], None]) -> Receipt:
        """Send and verify a version, then let ``metadata.json`` name it."""
        del notice
        version = self._version(folder)
        self._there()  # refuses a folder of something else before anything is sent
        tried = {*self._record.tried(self.address), version}
        self._record.set_tried(self.address, tuple(sorted(tried)))
        objects = self._objects(folder)
        sent = self._send(version, objects)
        there = self._there()
        if there is None or there.version != version:
            self._name(version, folder, objects, self._older(version, there))
            there = self._there()
        if there is not None and there.version == version:  # else another deployment won
            for old in self._older(version, there):
                self._delete(old)
        self._record.set_tried(self.address, ())
        return Receipt(revision=version, sent=tuple(sent), link=self._link(version))

    # Sending -------------------------------------------------------------------------------

    def _objects(self, folder: ModelFolder) -> dict[str, Source]:
        files = entries_of(folder.files)
        if self._archive == "none":
            return {name: Source(folder.path / name, entry) for name, entry in files.items()}
        self._staging.mkdir(parents=True, exist_ok=True)
        archive = self._staging / f"{folder.digest[:16]}.tar.gz"
        archive.unlink(missing_ok=True)  # of a try that was killed
        with track("packing", total=folder.size) as task:
            pack(folder.path, files, archive, kind="tar.gz", progress=task.advance)
        return {ARCHIVE: source_of(archive)}

    def _send(self, version: str, objects: Mapping[str, Source]) -> list[str]:
        """Send what is not there yet and verify everything; return the names that were sent."""
        total = sum(source.entry.size for source in objects.values())

        def one(name: str, source: Source) -> str:
            stored = f"{version}/{name}"
            if hash_file(source.path) != source.entry.sha256:
                raise DeployError(f"{source.path} was altered: its SHA-256 differs")
            if self._size(stored) == source.entry.size and arrived(
                self._connections, source, stored
            ):
                task.advance(source.entry.size)
                return ""
            for _ in range(2):
                send(self._connections, source, stored, moved=task.advance)
                if arrived(self._connections, source, stored):
                    return name
            raise DeployError(
                f"{self.address}/{stored} is not what was sent, twice",
                remedy="the storage alters what it is given; what was deployed before is as it was",
            )

        largest_first = sorted(objects.items(), key=lambda item: -item[1].entry.size)
        with track(f"uploading to {self.address}", total=total) as task:
            sent = for_each(largest_first, one, concurrency=self._concurrency)
        return sorted(name for name in sent if name)

    def _name(
        self, version: str, folder: ModelFolder, objects: Mapping[str, Source], old: list[str]
    ) -> None:
        """Write ``metadata.json`` in one step, and read it back."""
        body = {
            **folder.description(),
            "current": version,
            "archive": {ARCHIVE: vars(objects[ARCHIVE].entry)} if self._archive != "none" else {},
            "superseded": old,
        }
        content = (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode()
        self._connections.call(
            f"writing {METADATA}", lambda storage, _: storage.write(METADATA, content)
        )
        if read(self._connections, METADATA) != content:
            raise DeployError(
                f"{self.address}/{METADATA} is not what was written",
                remedy="is something else deployed there at the same time?",
            )

    # Looking -------------------------------------------------------------------------------

    def _version(self, folder: ModelFolder) -> str:
        name = hashlib.sha256(f"{folder.digest} {self._archive}".encode()).hexdigest()[:12]
        return name if folder.step is None else f"step-{folder.step:08d}-{name}"

    def _there(self) -> _There | None:
        content = read(self._connections, METADATA)
        if content is None:
            return None
        try:
            return _parsed(content)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DeployError(
                f"{self.address}/{METADATA} is not of a deployment of llmforge",
                remedy="deploy to another folder",
            ) from error

    def _older(self, version: str, there: _There | None) -> list[str]:
        """Return the folders of versions that ``version`` takes the place of and that are there."""
        names = set(self._record.tried(self.address))
        if there is not None:
            names |= {there.version, *there.superseded}
        names -= {version}
        if not names:
            return []
        found = self._connections.call("listing versions", lambda storage, _: storage.folders(""))
        return sorted(names & set(found))

    def _delete(self, name: str) -> None:
        self._connections.call(f"deleting {name}", lambda storage, _: storage.delete(name))

    def _size(self, name: str) -> int | None:
        return stored_size(self._connections, name)

    def _link(self, version: str) -> str:
        return f"{self.address}/{version}"


def _parsed(content: bytes) -> _There:
    body: dict[str, Any] = json.loads(content)
    version = body["current"]
    superseded = tuple(body["superseded"])
    unsafe = [name for name in (version, *superseded) if "/" in name or not is_safe(name)]
    if unsafe:
        raise ValueError(f"it names {unsafe[0]!r}")
    objects = body["archive"] or body["files"]
    return _There(
        version=version,
        objects={f"{version}/{name}": int(entry["size"]) for name, entry in objects.items()},
        superseded=superseded,
    )
