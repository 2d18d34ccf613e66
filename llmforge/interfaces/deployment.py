"""What a ``deploy`` component hands to the core, and what it is given to deploy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

FORMAT_VERSION = 1


@dataclass(frozen=True)
class DeployedFile:
    """A file of a model: ``size`` in bytes and ``sha256`` in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A complete exported model, the same at every try.

    Attributes:
        path: the folder, which may be missing when :meth:`Deployment.look` is called.
        files: every file in it, by its path with ``/`` between the parts.
        run_id: of the run; empty when that is not known.
        run_directory: of the run; None when it is not on this machine.
        step: of the checkpoint; None when that is not known.
        recipe_hash: identity of the recipe that was trained; empty when that is not known.
        metrics: what was measured at the checkpoint, such as ``val/loss``.
        private: whether a place that is made for it is to be seen by its owner alone.
    """

    path: Path
    files: Mapping[str, DeployedFile]
    run_id: str = ""
    run_directory: Path | None = None
    step: int | None = None
    recipe_hash: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    private: bool = True

    @property
    def digest(self) -> str:
        """SHA-256 of names and contents of all files, in hex: equal for equal folders."""
        listed = sorted((name, file.size, file.sha256) for name, file in self.files.items())
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files.values())

    def description(self) -> dict[str, Any]:
        """Return what this is, to be kept beside the files as JSON; without any time."""
        return {
            "format_version": FORMAT_VERSION,
            "digest": self.digest,
            "run": self.run_id,
            "step": self.step,
            "recipe_hash": self.recipe_hash,
            "metrics": dict(self.metrics),
            "files": {name: vars(file) for name, file in sorted(self.files.items())},
        }


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What deploying a folder would do.

    Attributes:
        revision: what is there now, complete and the very same; empty when something has to be
            done.
        send: files to be sent.
        delete: files of an earlier deployment that would be taken away.
        visible: who would see it, in a word or two, such as ``private``.
        note: what else is worth knowing, such as ``the repository is made``.
        link: where it can be seen; empty when that is not known.
    """

    revision: str = ""
    send: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    visible: str = ""
    note: str = ""
    link: str = ""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A deployment that is complete and was verified.

    Attributes:
        revision: how the place names it: a commit, a version.
        sent: files that had to be sent.
        link: where it can be seen; empty when that is not known.
    """

    revision: str
    sent: tuple[str, ...] = ()
    link: str = ""


class Deployment(Protocol):
    """A place that models are deployed to.

    Readers see the folder that was there before, or the new one, and never a part of it, whenever
    a call is interrupted. A call may raise anything; whatever is an
    :class:`~llmforge.errors.DeployError` is shown as it is, everything else with its type.

    Attributes:
        address: without credentials, as messages and records name it.
    """

    address: str

    def look(self, folder: ModelFolder) -> Outlook:
        """Return what :meth:`publish` would do, and change nothing."""
        ...

    def publish(self, folder: ModelFolder, *, notice: Callable[[str], None]) -> Receipt:
        """Make ``folder`` what readers find here, and verify it by sizes and hashes.

        What is there already is not sent again: files of an interrupted try, and files that did
        not change. A folder that is there as a whole gets its receipt and is left as it is. Files
        of an earlier deployment that are no longer part of it go away; those of others stay.
        Called again after an error it continues.

        Args:
            folder: what to publish.
            notice: told what is worth knowing.

        Raises:
            DeployError: it could not be done; what readers find is as before.
        """
        ...
