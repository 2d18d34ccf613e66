"""Where runs are: an option, ``FORGE_RUN_ROOT`` (environment or ``.env``), else ``runs``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

DEFAULT_ROOT = "runs"
VARIABLE = "FORGE_RUN_ROOT"


def configured_root() -> str | None:
    """Return ``FORGE_RUN_ROOT`` from the environment or ``.env``, None when neither sets it."""
    if value := os.environ.get(VARIABLE):
        return value
    if not Path(".env").exists():
        return None
    # Worth a slow import only when there is a file to read.
    from llmforge.settings import settings

    return settings().run_root


def root_option(root: Path) -> str:
    """Return `` --root DIR`` for a command about a run in ``root``, empty where it goes without."""
    if root.absolute() == run_root().absolute():
        return ""
    return f" --root {shlex.quote(str(root))}"


def run_root(option: str | Path | None = None) -> Path:
    """Return the directory of all runs; ``option`` wins over everything else."""
    return Path(option or configured_root() or DEFAULT_ROOT).expanduser()
