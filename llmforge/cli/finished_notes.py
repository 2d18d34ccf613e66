"""Notes about runs that were found done, for the same command to say so sooner next time.

See :mod:`llmforge.cli.early.finished`, which reads them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from llmforge.cli.early import finished
from llmforge.cli.early.finished import FORMAT, NOTHING, STARTED, content_of, stamp_of
from llmforge.component import KINDS
from llmforge.errors import ForgeError
from llmforge.installed import DISTRIBUTION
from llmforge.plugins import entries
from llmforge.recipe.files import paths_behind
from llmforge.run.plan import Plan
from llmforge.rundir.layout import completion_path

_KEPT = 64
"""Notes that are kept: one is of a command in an environment."""

_SETTLED = 2_000_000_000
"""Nanoseconds that a file must not have changed for before the process began: clocks are coarse."""


SETTINGS = ".env"
_SETTING = re.compile(
    r"""\s*((export\s+)?\w+\s*=\s*([^'"\s#$\\]*|'[^'\\]*'|"[^"$\\]*")\s*)?(#.*)?""", re.ASCII
)
"""A line of ``.env`` that needs no second look."""


def what_decides(source: str) -> Mapping[str, Any] | None:
    """Return all that decides which run the recipe of this command is; None if it is not certain.

    To be called once the run's plan is made: files that change from then on are others.

    Args:
        source: the recipe, as the command names it.
    """
    if not finished.asked or _others_imported():
        return None
    try:
        paths = [SETTINGS, *map(str, paths_behind(source))]
        contents = {path: content_of(path) for path in paths}
        stamps = {path: stamp_of(path) for path in _code()}
        recent = [stamp_of(path) for path in contents]
        certain = contents[SETTINGS] == NOTHING or _are_plain(Path(SETTINGS).read_text("utf-8"))
    except (OSError, ValueError, ForgeError):
        return None
    if not certain or any(_is_fresh(stamp) for stamp in [*stamps.values(), *recent]):
        return None
    return {"stamps": stamps, "contents": contents}


def note_finished(plan: Plan, note: Mapping[str, Any], decisive: Mapping[str, Any]) -> None:
    """Leave a note that the run of this command is done.

    Args:
        plan: of its run.
        note: what :func:`llmforge.cli.early.finished.finished_lines` takes.
        decisive: what :func:`what_decides` returned.
    """
    body = {
        "format": FORMAT,
        "identity": plan.identity.hash,
        "completion": str(completion_path(plan.root, plan.run_id)),
        **note,
        **decisive,
    }
    with contextlib.suppress(OSError, ValueError):
        _write(Path(finished.asked), json.dumps(body))


def _are_plain(settings: str) -> bool:
    """Return whether reading ``.env`` says nothing, and the note is where it would have it."""
    lines = settings.splitlines()
    return "FORGE_CACHE" not in settings and all(map(_SETTING.fullmatch, lines))


def _others_imported() -> bool:
    """Return whether options of another package's component were checked: it may read anything."""
    return any(
        entry.distribution != DISTRIBUTION and entry.target.partition(":")[0] in sys.modules
        for kind in KINDS
        for entry in entries(kind).values()
    )


def _code() -> Iterator[str]:
    """Yield the files and folders that decide what is imported, but for Python's own."""
    yield from sys.path
    library = sysconfig.get_path("stdlib")
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and (not path.startswith(library) or "-packages" in path):
            yield path
            yield os.path.dirname(path)  # noqa: PTH120 - of a thousand
    for distribution in distributions():
        folder = getattr(distribution, "_path", None)
        if folder is not None:
            yield str(folder)
            yield str(folder / "entry_points.txt")


def _is_fresh(stamp: list[int]) -> bool:
    return bool(stamp) and max(stamp[:2]) > STARTED - _SETTLED


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.touch(mode=0o600)
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
    notes = sorted(path.parent.iterdir(), key=lambda item: item.stat().st_mtime, reverse=True)
    for old in notes[_KEPT:]:
        old.unlink()
