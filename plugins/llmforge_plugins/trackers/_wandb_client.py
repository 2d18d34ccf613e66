"""Opening the W&B client for one session of a run, with all that it writes in one directory."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from llmforge import events

INIT_SECONDS = 15.0
FINISH_SECONDS = 20.0
"""The client gets this long to send the rest when a run ends."""

_SETTINGS = {
    "program": "forge train",
    "console": "off",
    "silent": True,
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "init_timeout": INIT_SECONDS,
    "finish_timeout": FINISH_SECONDS,
    "finish_timeout_raises": True,
    "reinit": "create_new",
    # these tell of the courier, while the run tells of the training process
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 1.0,
    # a stop asked for in W&B's pages would interrupt the courier, which is not the run
    "stop_fn": lambda: None,
}


class Identity:
    """Which W&B run belongs to a run, in a file that is written before the id is used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, str] = {}

    def open(self, *, entity: str | None, project: str | None) -> None:
        """Read the identity, or make it at the first start."""
        if self._path.exists():
            self._values = json.loads(self._path.read_text(encoding="utf-8"))
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.save(id=secrets.token_hex(4), project=project or "llmforge", entity=entity or "")

    def save(self, **changes: str) -> None:
        """Change values, empty ones left out, and write the file in one step."""
        self._values |= {key: value for key, value in changes.items() if value}
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(self._values, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    @property
    def id(self) -> str:
        """The id of the W&B run."""
        return self._values["id"]

    @property
    def place(self) -> Mapping[str, Any]:
        """Where the W&B run is: ``entity`` (None for the key's default), ``project``, ``run``."""
        entity = self._values.get("entity")
        return {"entity": entity, "project": self._values["project"], "run": self.id}


def keep_files_in(directory: Path) -> None:
    """Have the package write into ``directory`` what it would write into the home directory."""
    for place in ("DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
        os.environ[f"WANDB_{place}"] = str(directory)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def open_client(
    directory: Path,
    identity: Identity,
    options: Any,
    event: events.RunStarted,
    *,
    config: Mapping[str, Any],
) -> Any:
    """Begin or resume the W&B run; return the client's handle of it.

    Raises:
        Exception: what the client raises when the service does not let it begin in time.
    """
    keep_files_in(directory)
    table = event.config.get("run") or {}
    known = wandb.Settings.model_fields
    return wandb.init(
        dir=str(directory),
        mode=options.mode,
        id=identity.id,
        resume="allow" if options.mode == "online" else None,
        entity=identity.place["entity"],
        project=identity.place["project"],
        name=event.facts.get("name") or event.run_id,
        tags=list(event.facts.get("tags") or table.get("tags") or ()),
        notes=table.get("notes") or None,
        group=options.group or event.facts.get("sweep"),
        job_type=options.job_type,
        config=dict(config),
        settings=wandb.Settings(**{key: _SETTINGS[key] for key in _SETTINGS if key in known}),
    )
