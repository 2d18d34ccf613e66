"""What the tests of ``forge deploy`` share: models as readers find them, and servers' variables."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from forge_process import Workplace
from hub_stand_in import Hub

from llmforge.remote import open_storage

Files = dict[str, bytes]


def exported(workplace: Workplace, address: str = "tiny", *arguments: str) -> Files:
    """Return the files that ``forge export`` writes of a checkpoint."""
    asked = hashlib.sha256(" ".join([address, *arguments]).encode()).hexdigest()
    folder = workplace.path / f"exported-{asked[:8]}"
    if not folder.exists():
        workplace.forge_here("export", address, "--to", str(folder), *arguments)
    return files_of(folder)


def files_of(folder: Path) -> Files:
    """Return the contents of every file in a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def in_storage(url: str) -> Files | None:
    """Return what a reader finds who starts from ``metadata.json``, each hash compared."""
    place = open_storage(url)
    try:
        metadata = json.loads(place.read("metadata.json"))
    except FileNotFoundError:
        return None
    version = metadata["current"]
    if metadata["archive"]:
        ((name, entry),) = metadata["archive"].items()
        content = place.read(f"{version}/{name}")
        assert _facts(content) == entry
        with tarfile.open(fileobj=BytesIO(content)) as archive:
            found = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
    else:
        found = {name: place.read(f"{version}/{name}") for name in metadata["files"]}
    assert {name: _facts(content) for name, content in found.items()} == metadata["files"]
    return found


def stored_names(url: str) -> set[str]:
    """Return the first parts of all names in a folder of a storage."""
    return {name.partition("/")[0] for name in open_storage(url).names("")}


def on_hub(hub: Hub, name: str) -> Files | None:
    """Return the model in the newest commit, each hash compared with what ``llmforge.json`` says.

    None while nothing was deployed.
    """
    repository = hub.repositories.get(f"models/{name}")
    if repository is None:
        return None
    files = dict(repository.commits[-1][1])
    if "llmforge.json" not in files:
        assert set(files) <= {".gitattributes"}
        return None
    told = json.loads(files["llmforge.json"])["files"]
    found = {path: files[path] for path in told}
    assert {path: _facts(content) for path, content in found.items()} == told
    return found


def with_variables(workplace: Workplace, variables: Mapping[str, str]) -> Workplace:
    """Return the workplace whose processes have further variables."""
    return dataclasses.replace(workplace, environment={**workplace.environment, **variables})


def deployments(workplace: Workplace) -> dict[str, Any]:
    """Return what ``deployments.json`` of the run says, by address."""
    body = json.loads(workplace.run.deployments.read_text(encoding="utf-8"))
    assert body["tried"] == {}
    return {item["to"]: item for item in body["deployments"]}


def _facts(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
