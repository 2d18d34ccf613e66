"""Whether all ranks see one and the same checkpoints directory, asked before the first step."""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path

from llmforge.checkpoint.rank_group import LEADER, Crew, everyone, led
from llmforge.errors import CheckpointError

SECONDS = 10.0
"""How long a file may take to appear elsewhere: network file systems cache what they list."""

_PREFIX = ".crew-"  # hidden, so that a start after a kill removes it


def check_shared(directory: Path, crew: Crew, *, seconds: float = SECONDS) -> None:
    """Let every rank read a file that the leader writes into ``directory``, and write there.

    Raises:
        CheckpointError: a rank does not see it, or may not write; the message names the rank.
    """
    name = led(crew, lambda: _leave(directory))
    try:
        everyone(crew, lambda: _find(directory, name, crew.rank, seconds))
    finally:
        if crew.rank == LEADER:
            (directory / name).unlink(missing_ok=True)


def _leave(directory: Path) -> str:
    name = f"{_PREFIX}{secrets.token_hex(8)}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name, encoding="utf-8")
    except OSError as error:
        raise _unwritable(directory, error) from error
    return name


def _find(directory: Path, name: str, rank: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not (directory / name).is_file():
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"{directory.absolute()} on {socket.gethostname()} is not the checkpoints "
                f"directory that rank {LEADER} writes to",
                remedy="set run.root to a directory on a file system that all nodes share",
            )
        time.sleep(0.05)
    own = directory / f"{name}-{rank}"
    try:
        own.touch()
        own.unlink()
    except OSError as error:
        raise _unwritable(directory, error) from error


def _unwritable(directory: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{directory.absolute()} cannot be written to on {socket.gethostname()}: {error.strerror}"
    )
