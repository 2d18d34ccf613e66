"""Where everything of a run is in storage, as names below the URL.

::

    <run_id>/attempt-00001/
      attempt.json                          who began it; create-only
      run.json recipe.toml metrics.jsonl …  mirrored, replaced as they change
      checkpoints/step-00000100/
        COMMIT.json                         create-only and last: without it nothing is here
        <token>/…                           what one upload wrote
"""

from __future__ import annotations

import re

ATTEMPT = "attempt.json"
COMMIT = "COMMIT.json"
COMPLETION = "completion.json"
RUN_FILES = "run"
"""Folder beside the checkpoint's files, with what of the run belongs to it."""

_ATTEMPT = re.compile(r"attempt-(\d{5,})")
_STEP = re.compile(r"step-(\d{8,})")
_TOKEN = re.compile(r"[A-Za-z0-9]{8,64}")


def attempt_folder(run_id: str, attempt: int) -> str:
    """Return the folder of one attempt of a run."""
    return f"{run_id}/attempt-{attempt:05d}"


def attempt_number(folder: str) -> int | None:
    """Return the attempt a folder's name stands for, None when it is no attempt."""
    match = _ATTEMPT.fullmatch(folder)
    return int(match[1]) if match else None


def step_number(folder: str) -> int | None:
    """Return the step a folder's name stands for, None when it is no checkpoint."""
    match = _STEP.fullmatch(folder)
    return int(match[1]) if match else None


def is_token(text: str) -> bool:
    """Return whether ``text`` can name the folder of one upload."""
    return bool(_TOKEN.fullmatch(text))


def is_safe(name: str) -> bool:
    """Return whether ``name`` stays below the folder it is relative to, on every system."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not set(name) & set("\\\0")
