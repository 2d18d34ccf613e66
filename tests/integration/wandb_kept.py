"""What arrived at the stand-in for the W&B service, as tests look at it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

KEY = "local-" + "4" * 40
"""The one API key it knows."""

ENTITY = "us"
"""The entity of who has that key."""


@dataclass
class RemoteRun:
    """What arrived of one run.

    Attributes:
        info: what the client said of it last: ``displayName``, ``notes``, ``tags``, ``groupName``…
        history: rows of the history, as JSON texts; None where none arrived yet.
        files: content of its files by name.
        ends: exit codes, one for each time the client said that the run is complete.
        sessions: how often a client began to log to it.
    """

    entity: str
    project: str
    name: str
    info: dict[str, Any] = field(default_factory=dict)
    history: list[str | None] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    sessions: int = 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the history; a gap fails."""
        assert None not in self.history
        return [json.loads(line) for line in self.history if line is not None]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, without what the client adds of its own."""
        config = json.loads(self.info.get("config") or "{}")
        return {key: item["value"] for key, item in config.items() if key != "_wandb"}


@dataclass
class RemoteArtifact:
    """What arrived of one artifact."""

    name: str
    type: str
    aliases: list[str]
    digest: str
    run: str = ""
    version: int = 0
    metadata: str = "{}"
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False
