"""That the run of ``forge train RECIPE`` is done, said without resolving the recipe again.

Whenever the whole way has found a run done it leaves a note (:mod:`llmforge.cli.finished_notes`) of
the same command line's run, and of everything that decided which run that is. The note holds as
long as all of it is the same: command line, working directory, environment, interpreter and search
path; the content of ``.env`` and of the recipe's files, and that there is none where one would come
before them; times, size and inode of every module that was imported, of the folders modules are
found in, and of every installed package's metadata. The completion itself is read each time, and
must be of the identity that the note has.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False  # that of typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FORMAT = 1
NOTHING = "nothing"
"""Stands where a file's digest would, of one that is not there."""

STARTED = time.time_ns()
"""When this process began, nearly."""

asked = ""
"""Where the note of this process's command was looked for: before anything changed what it is."""

_PASSING = frozenset(
    [
        "COLUMNS",
        "LINES",
        "OLDPWD",
        "SHLVL",
        "SSH_CLIENT",
        "SSH_CONNECTION",
        "SSH_TTY",
        "STY",
        "TERM_SESSION_ID",
        "TMUX",
        "TMUX_PANE",
        "WINDOWID",
        "XDG_SESSION_ID",
        "_",
    ]
)
"""Variables that are others in every terminal, and no part of what a recipe may depend on."""

_REQUIRED = frozenset(
    [
        "run_id",
        "attempt",
        "identity",
        "state",
        "reason",
        "steps",
        "final_loss",
        "best_loss",
        "best_step",
        "started",
        "ended",
        "directory",
    ]
)


def finished_run(arguments: list[str]) -> str:
    """Return what ``forge train`` says of a run that is done; empty when that is not certain."""
    if not arguments or arguments[0] != "train":
        return ""
    import json

    global asked
    try:
        asked = _note_path()
        with open(asked, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is slow to import
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return ""
            note = json.load(file)
        if note["format"] != FORMAT or not _holds(note):
            return ""
        with open(note["completion"], "rb") as record:  # noqa: PTH123
            done = json.load(record)
        if not done.keys() >= _REQUIRED or done["identity"] != note["identity"]:
            return ""
        return "".join(f"{line}\n" for line in finished_lines(note, done))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return ""


def finished_lines(note: Mapping[str, Any], done: Mapping[str, Any]) -> list[str]:
    """Return what is said of a run that is done and stays on this machine.

    Args:
        note: ``run_id``; ``root``, the option that names its directory; ``fetch``, the command that
            gets it from storage, empty where there is none; ``checkpoints`` and ``export``, the
            directories, the latter empty if the recipe asks for none.
        done: its completion.
    """
    from llmforge.printable import printable

    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(done["ended"]))
    best = done["best_loss"]
    best = "" if best is None else f", best validation loss {best:.4f}"
    run_id, root, export = note["run_id"], note["root"], note["export"]
    lines = [f"{run_id}: already completed on {when} ({done['reason']}{best})"]
    if not note["fetch"] or os.path.exists(note["checkpoints"]):  # noqa: PTH110
        lines.append(f"  use it:         {done.get('next_command', '')}")
    else:
        lines.append(f"  fetch it:       {note['fetch']}")
    if export and not os.path.exists(export):  # noqa: PTH110
        lines.append(f"  export it:      forge export {run_id} --to {export}{root}")
    lines.append(f"  train it again: forge runs clear {run_id}{root}")
    return [printable(line) for line in lines]


def _note_path() -> str:
    """Return where the note about this command is, by the digest of all that it is about."""
    import hashlib

    environment = sorted(item for item in os.environ.items() if item[0] not in _PASSING)
    about = (
        sys.argv,
        os.getcwd(),  # noqa: PTH109 - pathlib is slow to import
        environment,
        sys.executable,
        sys.version,
        tuple(sys.flags),
        sys.path,
    )
    digest = hashlib.sha256(repr(about).encode("utf-8", "surrogateescape")).hexdigest()
    cache = os.environ.get("FORGE_CACHE")
    if not cache:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
        cache = f"{base}/llmforge"
    return f"{cache}/finished/{digest}.json"


def content_of(path: str) -> str:
    """Return the digest of a file; what is there instead where it is none."""
    import hashlib

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return hashlib.sha256(file.read()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    except IsADirectoryError:
        return "a folder"


def stamp_of(path: str) -> list[int]:
    """Return what tells that a file or the entries of a folder changed; empty if nothing is there.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        found = os.stat(path or ".")  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino]


def _holds(note: Mapping[str, Any]) -> bool:
    return all(stamp_of(path) == stamp for path, stamp in note["stamps"].items()) and all(
        content_of(path) == content for path, content in note["contents"].items()
    )
