"""Completion: recorded by run id, apart from the run directory and its checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.errors import RunError
from llmforge.run_root import root_option
from llmforge.rundir.atomic import sync_directory, write_json
from llmforge.rundir.layout import completion_path
from llmforge.rundir.stored_values import wrong_value

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Completion:
    """That a run is done: why, when, with what result, and where its artifacts are.

    Losses are in nats per token, times in seconds since the epoch; ``keys`` are those of its
    identity, and ``epochs`` the passes over the training data.
    """

    run_id: str
    attempt: int
    identity: str
    state: str
    reason: str
    steps: int
    final_loss: float | None
    best_loss: float | None
    best_step: int | None
    started: float
    ended: float
    directory: str
    artifacts: dict[str, str] = field(default_factory=dict)
    next_command: str = ""
    epochs: float = 0.0
    keys: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("run_id", "identity", "state", "reason", "directory", "next_command"), str),
    **dict.fromkeys(("attempt", "steps", "format_version"), int),
    **dict.fromkeys(("started", "ended", "epochs"), int | float),
    **dict.fromkeys(("artifacts", "keys"), dict),
    **dict.fromkeys(("final_loss", "best_loss"), int | float | None),
    "best_step": int | None,
}


def read_completion(root: Path, run_id: str) -> Completion | None:
    """Return the completion of ``run_id``, or None when it is not done.

    Raises:
        RunError: the record is damaged.
    """
    command = f"forge runs clear {run_id}{root_option(root)}"
    remedy = f"{command} starts the run afresh and keeps the old one aside"
    return load_completion(completion_path(root, run_id), remedy=remedy)


def load_completion(path: Path, *, remedy: str = "") -> Completion | None:
    """Return the completion in the file ``path``, or None when there is no such file.

    Raises:
        RunError: the record is damaged or may not be read.
    """
    try:
        return decode_completion(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunError(
            f"the completion record {path} cannot be read: {error.strerror}",
            remedy="make it readable for the user who runs this command",
        ) from error
    except ValueError as error:
        raise RunError(
            f"the completion record {path} is damaged: {error}", remedy=remedy
        ) from error


def decode_completion(content: bytes) -> Completion:
    """Return the completion that ``content`` holds as JSON.

    Raises:
        ValueError: it holds none.
    """
    try:
        body: dict[str, Any] = json.loads(content)
        known = {item.name for item in dataclasses.fields(Completion)}
        found = Completion(**{key: value for key, value in body.items() if key in known})
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    if wrong := wrong_value(body, _KINDS, any_number=("final_loss", "best_loss")):
        raise ValueError(wrong)
    return found


def write_completion(root: Path, completion: Completion) -> None:
    """Record that a run is done."""
    path = completion_path(root, completion.run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dataclasses.asdict(completion))


def withdraw_completion(root: Path, run_id: str) -> None:
    """Forget that a run is done; for the process that holds its lock and trains on."""
    path = completion_path(root, run_id)
    if path.exists():
        path.unlink()
        sync_directory(path.parent)
