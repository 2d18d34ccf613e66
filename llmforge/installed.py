"""What is installed, read from package metadata only; nothing is imported.

``FORGE_PLUGINS`` restricts which distributions are looked at: a comma-separated list of names;
llmforge's own components always stay available, and an empty value allows nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from llmforge.errors import PluginError

COMMAND = "command"
COMMANDS_GROUP = "llmforge.commands"
_OWN = "llmforge"


@dataclass(frozen=True)
class Entry:
    """A component as its distribution's metadata lists it."""

    kind: str
    name: str
    target: str
    distribution: str
    version: str


def allowed(distribution: str) -> bool:
    """Return whether ``FORGE_PLUGINS`` lets this distribution's plugins load."""
    value = os.environ.get("FORGE_PLUGINS")
    if value is None or distribution == _OWN:
        return True
    return _normalised(distribution) in {_normalised(item) for item in value.split(",")}


def commands() -> dict[str, EntryPoint]:
    """Return the entry points of third-party CLI commands by name, not loaded.

    Raises:
        PluginError: two distributions list the same name.
    """
    unique(entries_of(COMMAND, COMMANDS_GROUP))
    return {
        point.name: point for point in _points(COMMANDS_GROUP) if allowed(_distribution(point)[0])
    }


def entries_of(kind: str, group: str) -> Iterator[Entry]:
    """Yield what is listed in an entry-point group; names two distributions share come twice."""
    for point in _points(group):
        distribution, version = _distribution(point)
        if allowed(distribution):
            yield Entry(kind, point.name, point.value, distribution, version)


def unique(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return entries by name.

    Raises:
        PluginError: two distributions list the same name.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        other = found.setdefault(entry.name, entry)
        if other.target != entry.target:
            raise PluginError(
                f"two {entry.kind}s are named '{entry.name}': {other.target} of "
                f"{other.distribution} and {entry.target} of {entry.distribution}",
                remedy="uninstall one of them, or set FORGE_PLUGINS to the one to load",
            )
    return found


def refresh() -> None:
    """Forget what is installed, so that a package installed since is found."""
    _all_points.cache_clear()


@lru_cache(maxsize=1)
def _all_points() -> Any:
    return entry_points()


def _points(group: str) -> Iterable[EntryPoint]:
    return _all_points().select(group=group)


def _distribution(point: EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return "unknown", ""
    return _normalised(point.dist.name), point.dist.version


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
