"""Where a run came from: command, code, packages, hardware."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmforge.recipe.secrets import is_secret_name

_PACKAGES = ("llmforge", "torch", "numpy", "tokenizers", "safetensors", "pluggy", "pydantic")
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_GIT_SECONDS = 5


def provenance(distributions: Sequence[str] = ()) -> dict[str, Any]:
    """Return what is needed to tell later how a run was made.

    Args:
        distributions: further packages whose versions matter, such as those of plugins.
    """
    names = sorted({*_PACKAGES, *distributions})
    return {
        "command": redacted(sys.argv),
        "directory": str(Path.cwd()),
        "host": socket.gethostname(),
        "user": os.environ.get("USER", ""),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": {name: found for name in names if (found := _version(name))},
        "git": _git(),
    }


def redacted(arguments: Sequence[str]) -> list[str]:
    """Return a command line without what may be secret in it."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.removeprefix("--set=").partition("=")
        is_secret = is_secret_name(name.lstrip("-").rsplit(".", 1)[-1])
        if hide_next:
            shown.append("***")
        elif equals and is_secret:
            shown.append(argument[: argument.index(name) + len(name)] + "=***")
        else:
            shown.append(_URL_LOGIN.sub("***@", argument))
        hide_next = not hide_next and not equals and is_secret and argument.startswith("--")
    return shown


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
