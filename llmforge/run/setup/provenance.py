"""Where a run came from: command, code, packages, hardware."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmforge import __version__
from llmforge.redaction import redact_arguments

_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "pluggy", "pydantic")
_GIT_SECONDS = 5


def provenance(distributions: Sequence[str] = ()) -> dict[str, Any]:
    """Return what is needed to tell later how a run was made.

    Args:
        distributions: further packages whose versions matter, such as those of plugins.
    """
    names = sorted({*_PACKAGES, *distributions})
    return {
        "command": redact_arguments(sys.argv),
        "directory": str(Path.cwd()),
        "host": socket.gethostname(),
        "user": os.environ.get("USER", ""),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": {
            "llmforge": __version__,
            **{name: found for name in names if (found := _version(name))},
        },
        "git": _git(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    """Return commit and changed files (with hashes) of the working directory's repository."""
    commit = _run_git("rev-parse", "HEAD")
    top = _run_git("rev-parse", "--show-toplevel")
    if not commit or not top:
        return {}
    changed: dict[str, str] = {}
    for line in (_run_git("status", "--porcelain", "--untracked-files=no") or "").splitlines():
        path = Path(top.strip()) / line[3:].strip().strip('"')
        if path.is_file():
            changed[line[3:].strip()] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return {"commit": commit.strip(), "changed": changed}


def _run_git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
