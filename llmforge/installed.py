"""What is installed, read from package metadata only; nothing is imported.

``FORGE_PLUGINS`` restricts which distributions are looked at: a comma-separated list of names;
llmforge's own components always stay available, and an empty value allows nothing else.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, entry_points, requires
from typing import Any

from llmforge.errors import PluginError

COMMAND = "command"
COMMANDS_GROUP = "llmforge.commands"
DISTRIBUTION = "llmforge-train"
"""The name llmforge is installed under; ``llmforge`` on PyPI is somebody else's."""

PACKAGES = {"sklearn": "scikit-learn", "lm_eval": "lm-eval"}
"""Packages by the module that is imported of them, where the two have different names."""

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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
    if value is None or distribution == DISTRIBUTION:
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


def install_command(*modules: str) -> str:
    """Return the command that installs packages which are missing, for a remedy.

    Versions are those that the installed metadata of llmforge or of a plugin's package ask for;
    what none of them knows is named as it is imported.
    """
    return f"pip install {' '.join(shlex.quote(_requirement(module)) for module in modules)}"


def _requirement(module: str) -> str:
    package = module.partition(".")[0]
    package = PACKAGES.get(package, package)
    wanted = _normalised(package)
    for text in _requirements():
        match = _REQUIREMENT.match(text)
        if match is not None and _normalised(match[0]) == wanted:
            return text
    return package


def _requirements() -> Iterator[str]:
    """Yield what llmforge and the packages of plugins require, without markers, own ones first."""
    groups = [group for group in _all_points().groups if group.startswith("llmforge.")]
    points = [point for group in groups for point in _points(group)]
    names = {_distribution(point)[0] for point in points if point.dist}
    for name in sorted(names, key=lambda name: (name != DISTRIBUTION, name)):
        for text in requires(name) or ():
            yield text.partition(";")[0].replace(" ", "")


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
    return _named(point.dist)


@lru_cache(maxsize=256)
def _named(distribution: Distribution) -> tuple[str, str]:
    metadata = distribution.metadata  # parsed each time it is asked for, which takes milliseconds
    return _normalised(metadata["Name"]), metadata["Version"]


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
