"""A run of ours as W&B keeps it: its recipe and checkpoints among its artifacts."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import wandb

from llmforge.errors import RunError, UsageError
from llmforge.interfaces import TrackedCheckpoint
from llmforge_plugins.trackers._wandb_client import keep_files_in
from llmforge_plugins.trackers._wandb_run import artifact_type
from llmforge_plugins.trackers._wandb_service import KEY, URL, LoginRefused, Service, service

SECONDS = 30
_RECIPE = "recipe.toml"
_FORM = "wandb:ENTITY/PROJECT/ID"


class KeptRun:
    """What W&B has of a run; see :class:`llmforge.interfaces.TrackedRun`.

    Args:
        run: as W&B's own package reads it.
        link: of its page.
    """

    def __init__(self, run: Any, *, link: str) -> None:
        config: Mapping[str, Any] = run.config
        self._artifacts: list[Any] = list(run.logged_artifacts())
        self.run_id = str(config.get("run_id", ""))
        self.attempt = int(config.get("attempt", 1))
        self.link = link

    def recipe(self) -> str | None:
        """Return the newest version of the recipe's artifact, None without one."""
        found = self._of_type(artifact_type("recipe"))
        newest = max(found, key=_version, default=None)
        if newest is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            newest.download(root=folder, skip_cache=True)
            return (Path(folder) / _RECIPE).read_text(encoding="utf-8")

    def checkpoints(self) -> list[TrackedCheckpoint]:
        """Return the uploaded checkpoints."""
        return [
            TrackedCheckpoint(step=step, is_best=bool(item.metadata.get("is_best")))
            for step, item in self._checkpoints().items()
        ]

    def fetch(self, step: int, target: Path) -> None:
        """Download an uploaded checkpoint."""
        self._checkpoints()[step].download(root=str(target), skip_cache=True)

    def _checkpoints(self) -> dict[int, Any]:
        """Return the newest artifact of each step."""
        found = sorted(self._of_type(artifact_type("checkpoint")), key=_version)
        return {int(item.metadata["step"]): item for item in found if "step" in item.metadata}

    def _of_type(self, kind: str) -> Iterator[Any]:
        return (item for item in self._artifacts if item.type == kind)


def open_kept_run(address: str, *, places: bool) -> KeptRun:
    """Return the run at ``address``: ``ENTITY/PROJECT/ID``.

    Args:
        address: of the run.
        places: whether this process has no place yet for what W&B's package writes.

    Raises:
        UsageError: it is not of that form.
        RunError: there is no such run, no key, or the key is refused.
        OSError: the service does not answer.
    """
    parts = address.split("/")
    if len(parts) != 3 or not all(parts):
        raise UsageError(f"'{address}' is not the address of a W&B run", remedy=f"write {_FORM}")
    found = _login()
    if places:
        keep_files_in(_own_folder())
        wandb.setup(wandb.Settings(silent=True))
    try:
        api = wandb.Api(overrides={"base_url": found.url}, timeout=SECONDS, api_key=found.key)
        return KeptRun(api.run(address), link=f"{found.url}/{parts[0]}/{parts[1]}/runs/{parts[2]}")
    except (ValueError, wandb.errors.CommError) as error:
        if "Could not find run" not in str(error):
            raise
        raise RunError(
            f"{found.url} has no run '{address}', or this key may not see it",
            remedy=f"write {_FORM} as in the address of the run's page",
        ) from error


def _login() -> Service:
    found = service()
    if found is None:
        raise RunError(
            "no W&B API key was found", remedy=f"set {KEY} in the environment or in .env"
        )
    try:
        found.viewer()
    except LoginRefused as error:
        raise RunError(str(error), remedy=f"check {KEY} and {URL}") from error
    return found


@cache
def _own_folder() -> Path:
    """Return a folder for what W&B's package writes, gone at the end of the process."""
    folder = tempfile.mkdtemp(prefix="forge-wandb-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _version(artifact: Any) -> int:
    return int(str(artifact.version).removeprefix("v"))
