"""``deployments.json``: where checkpoints of a run were deployed, and what was tried."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmforge.errors import RunError
from llmforge.interfaces import DeployedFile, ModelFolder, Receipt
from llmforge.rundir.atomic import write_json
from llmforge.rundir.layout import RunDirectory

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A deployment that was verified.

    Attributes:
        to: the address, without credentials.
        source: key of what was deployed.
        step: of the checkpoint.
        revision: as the place names it.
        digest: of all files together.
        files: size and SHA-256 of each.
        link: where it can be seen; empty when that is not known.
        time: in UTC, ISO 8601.
    """

    to: str
    source: str
    step: int | None
    revision: str
    digest: str
    files: Mapping[str, DeployedFile]
    link: str
    time: str


class DeploymentRecord:
    """The record of a run; without a run nothing is known and nothing kept.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, directory: RunDirectory | None) -> None:
        self._path = None if directory is None else directory.deployments
        self._body = _read(directory)

    def newest(self, address: str, source: str) -> Deployed | None:
        """Return the newest deployment to ``address`` if it is of ``source``."""
        found = [_deployed(item) for item in self._body["deployments"] if item["to"] == address]
        return found[-1] if found and found[-1].source == source else None

    def add(self, address: str, source: str, folder: ModelFolder, receipt: Receipt) -> None:
        """Keep a deployment; the one before to the same address goes."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        deployed = Deployed(
            to=address,
            source=source,
            step=folder.step,
            revision=receipt.revision,
            digest=folder.digest,
            files=folder.files,
            link=receipt.link,
            time=now,
        )
        kept = [item for item in self._body["deployments"] if item["to"] != address]
        self._body["deployments"] = [*kept, asdict(deployed)]
        self._write()

    def tried(self, address: str) -> tuple[str, ...]:
        """Return the versions whose upload to ``address`` was started from here and not cleared."""
        return tuple(self._body["tried"].get(address, ()))

    def set_tried(self, address: str, versions: tuple[str, ...]) -> None:
        """Keep which versions those are now."""
        if versions != self.tried(address):
            others = {to: kept for to, kept in self._body["tried"].items() if to != address}
            self._body["tried"] = {**others, **({address: list(versions)} if versions else {})}
            self._write()

    def _write(self) -> None:
        if self._path is not None:
            write_json(self._path, self._body)


def read_deployments(directory: RunDirectory) -> list[Deployed]:
    """Return where checkpoints of a run are deployed, oldest first.

    Raises:
        RunError: the file is damaged.
    """
    return [_deployed(item) for item in _read(directory)["deployments"]]


def _read(directory: RunDirectory | None) -> dict[str, Any]:
    empty: dict[str, Any] = {"format_version": FORMAT_VERSION, "deployments": [], "tried": {}}
    if directory is None:
        return empty
    path = directory.deployments
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        for item in body["deployments"]:
            _deployed(item)
        body["tried"].keys()
    except FileNotFoundError:
        return empty
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged: {error}",
            remedy="remove it: the next 'forge deploy' asks the targets what they have",
        ) from error
    return {**empty, **body}


def _deployed(item: Mapping[str, Any]) -> Deployed:
    files = {name: DeployedFile(**file) for name, file in item["files"].items()}
    return Deployed(**{**item, "files": files})
