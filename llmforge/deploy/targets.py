"""Opening what an address to deploy to means."""

from __future__ import annotations

import os
from pathlib import Path

from llmforge.component import KINDS
from llmforge.deploy.storage_folder import StorageFolder
from llmforge.errors import DeployError, UsageError
from llmforge.interfaces import Deployment
from llmforge.options import plain
from llmforge.plugins import (
    address_problem,
    build_manager,
    call_factory,
    entries,
    load,
    storage_component,
)
from llmforge.recipe import Recipe
from llmforge.remote import Connections
from llmforge.rundir.deployments import DeploymentRecord
from llmforge.settings import settings

_KIND = KINDS["deploy"]


def open_target(
    address: str, recipe: Recipe, *, record: DeploymentRecord, staging: Path
) -> Deployment:
    """Return the place behind ``address``; nothing is asked yet.

    Args:
        address: as in ``[deploy] to``.
        recipe: options of components are those of its ``[deploy.NAME]``, and of its
            ``[storage.NAME]`` where it has such a storage.
        record: of the run.
        staging: a local directory for what is made on the way.

    Raises:
        UsageError: it is no address.
        DeployError: the component's package is missing, or it may not use the network.
    """
    message, remedy = address_problem(address)
    if message:
        raise UsageError(message, remedy=remedy)
    name = address.partition(":")[0]
    if name not in entries(_KIND.name):
        return _storage_folder(address, recipe, record=record, staging=staging)
    options = [item.options for item in recipe.selections["deploy"] if item.name == name]
    component = load(_KIND.name, name)(*options)
    for problem in component.missing_packages():
        raise DeployError(f"{address}: {problem.message}", remedy=problem.remedy)
    if component.needs_network and settings().offline:
        variable = "FORGE_OFFLINE" if "FORGE_OFFLINE" in os.environ else "HF_HUB_OFFLINE"
        raise DeployError(
            f"{address}: {variable} is set, which forbids using the network",
            remedy=f"unset {variable} to deploy there",
        )
    assert _KIND.factory is not None
    opened: Deployment = call_factory(build_manager([component]), _KIND.factory, address=address)
    return opened


def _storage_folder(
    url: str, recipe: Recipe, *, record: DeploymentRecord, staging: Path
) -> StorageFolder:
    name = storage_component(url, entries("storage"))
    chosen = [item for item in recipe.selections.get("storage", ()) if item.name == name]
    keys = recipe.storage
    connections = Connections(
        url, plain(chosen[0].options) if chosen else None, stall_seconds=keys.stall_seconds
    )
    return StorageFolder(
        connections,
        archive=recipe.deploy.archive,
        concurrency=keys.concurrency,
        staging=staging,
        record=record,
    )
