"""Deploying to several places: each one tried, what is done already left alone."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmforge.deploy.source import Source, discard, files_of
from llmforge.deploy.targets import open_target
from llmforge.errors import DeployError, ForgeError, UsageError, plain_reason
from llmforge.file_lock import lock_file
from llmforge.interfaces import (
    DeployedFile,
    Deployment,
    ModelFolder,
    Outlook,
    Receipt,
    public_url,
)
from llmforge.plugins import address_problem
from llmforge.recipe import Recipe
from llmforge.redaction import redact
from llmforge.rundir.deployments import DeploymentRecord
from llmforge.rundir.layout import lock_path

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one address.

    Attributes:
        to: the address, without credentials.
        receipt: of what is there now; None when it failed.
        unchanged: whether it was there already.
        error: why it failed; None when it did not.
    """

    to: str
    receipt: Receipt | None = None
    unchanged: bool = False
    error: ForgeError | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What deploying would do.

    Attributes:
        files: every file of the model.
        outlooks: by address: what would be done there, or why that cannot be said.
    """

    files: Mapping[str, DeployedFile] = field(default_factory=dict)
    outlooks: Mapping[str, Outlook | ForgeError] = field(default_factory=dict)


def deploy(
    source: Source,
    addresses: Sequence[str],
    recipe: Recipe,
    *,
    notice: Say = lambda _: None,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Deploy ``source`` to every address, and return what became of each, in their order.

    One that fails keeps no other from its turn. A further call does what is missing.

    Args:
        source: what to deploy.
        addresses: as in ``[deploy] to``.
        recipe: for its ``[deploy]`` table.
        notice: told what is worth knowing.
        on_outcome: told each outcome at once.

    Raises:
        UsageError: an address is none.
        DeployError: another process is deploying this run.
        ForgeError: the checkpoint cannot be exported.
    """
    _require_addresses(addresses)
    with _alone(source), _staging(source) as staging:
        record = DeploymentRecord(source.directory)
        exported = _Exported(source, private=recipe.deploy.private, notice=notice)
        outcomes = []
        for address in addresses:

            def opened(address: str = address) -> Deployment:
                return open_target(address, recipe, record=record, staging=staging)

            outcome = _deploy_to(address, opened, exported, record, notice=notice)
            on_outcome(outcome)
            outcomes.append(outcome)
        if source.checkpoint is not None and all(outcome.receipt for outcome in outcomes):
            discard(source.directory.deploying if source.directory else source.path.parent)
    return outcomes


def preview(source: Source, addresses: Sequence[str], recipe: Recipe) -> Plan:
    """Return what :func:`deploy` would do; nothing is changed, in the run or elsewhere.

    Raises:
        UsageError: an address is none.
        ForgeError: the checkpoint cannot be exported.
    """
    _require_addresses(addresses)
    record = DeploymentRecord(source.directory)
    with tempfile.TemporaryDirectory(prefix="forge-deploy-") as place:
        path = source.path if source.path.is_dir() else source.export(Path(place) / "model")
        folder = source.folder(path, files_of(path), private=recipe.deploy.private)
        outlooks: dict[str, Outlook | ForgeError] = {}
        for address in addresses:
            try:
                target = open_target(address, recipe, record=record, staging=Path(place))
                outlooks[target.address] = target.look(folder)
            except Exception as error:  # a component may raise anything
                outlooks[public_url(address)] = _as_forge_error(error)
    return Plan(files=folder.files, outlooks=outlooks)


class _Exported:
    """The exported folder, made when it is first needed."""

    def __init__(self, source: Source, *, private: bool, notice: Say) -> None:
        self._source = source
        self._private = private
        self._notice = notice
        self._folder: ModelFolder | None = None

    @property
    def key(self) -> str:
        return self._source.key

    def folder(self) -> ModelFolder:
        """Return it with its files."""
        if self._folder is None:
            path = self._source.export(notice=self._notice)
            self._folder = self._source.folder(path, files_of(path), private=self._private)
        return self._folder

    def as_recorded(self, files: Mapping[str, DeployedFile]) -> ModelFolder:
        """Return what it is known to be, its files perhaps not here."""
        return self._source.folder(self._source.path, files, private=self._private)


def _deploy_to(
    address: str,
    opened: Callable[[], Deployment],
    exported: _Exported,
    record: DeploymentRecord,
    *,
    notice: Say,
) -> Outcome:
    try:
        target = opened()
        known = record.newest(target.address, exported.key)
        if known is not None:
            outlook = target.look(exported.as_recorded(known.files))
            if outlook.revision:
                receipt = Receipt(revision=outlook.revision, link=outlook.link)
                return Outcome(to=target.address, receipt=receipt, unchanged=True)
    except Exception as error:  # a component may raise anything
        return Outcome(to=public_url(address), error=_as_forge_error(error))
    folder = exported.folder()
    try:
        outlook = target.look(folder)
        unchanged = bool(outlook.revision)
        if unchanged:
            receipt = Receipt(revision=outlook.revision, link=outlook.link)
        else:
            receipt = target.publish(folder, notice=notice)
        record.add(target.address, exported.key, folder, receipt)
    except Exception as error:  # a component may raise anything
        return Outcome(to=public_url(address), error=_as_forge_error(error))
    return Outcome(to=target.address, receipt=receipt, unchanged=unchanged)


def _as_forge_error(error: Exception) -> ForgeError:
    if isinstance(error, ForgeError):
        return error
    return DeployError(redact(plain_reason(error)))


def _require_addresses(addresses: Sequence[str]) -> None:
    if not addresses:
        raise UsageError(
            "nowhere to deploy to",
            remedy="give --to hf://OWNER/NAME, or addresses in [deploy] to of the recipe",
        )
    for address in addresses:
        message, remedy = address_problem(address)
        if message:
            raise UsageError(message, remedy=remedy)


@contextlib.contextmanager
def _alone(source: Source) -> Iterator[None]:
    """Keep other processes from deploying the same run meanwhile."""
    if source.directory is None:
        yield
        return
    path = lock_path(source.directory.root, f"{source.directory.id}.deploy")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            lock_file(file)
        except BlockingIOError as error:
            raise DeployError(
                f"another process is deploying {source.directory.id}",
                remedy="wait for it, or stop it",
            ) from error
        yield


@contextlib.contextmanager
def _staging(source: Source) -> Iterator[Path]:
    if source.directory is not None:
        yield source.directory.deploying
        return
    with tempfile.TemporaryDirectory(prefix="forge-deploy-") as place:
        yield Path(place)
