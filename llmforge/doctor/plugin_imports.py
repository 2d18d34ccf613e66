"""Plugins: whether what is listed can be imported, and which of it lacks a package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from llmforge.component import importable
from llmforge.doctor.finding import Finding, ok, problem
from llmforge.errors import PluginError
from llmforge.installed import COMMAND, Entry, install_command
from llmforge.installed import commands as command_points
from llmforge.plugins import listed, load


def check_plugins() -> Iterator[Finding]:
    """Yield every component and command that cannot be loaded, and what components lack."""
    lacking: dict[str, list[str]] = defaultdict(list)
    names: set[tuple[str, str]] = set()
    broken = 0
    for entry in listed():
        if (entry.kind, entry.name) in names:
            continue  # the first of two of one name has told of both
        names.add((entry.kind, entry.name))
        found = _command(entry) if entry.kind == COMMAND else _component(entry, lacking)
        if found is not None:
            broken += 1
            yield found
    packages = {entry.distribution for entry in listed()}
    if not broken:
        word = "package" if len(packages) == 1 else "packages"
        yield ok("plugins.imports", f"{len(names)} components of {len(packages)} {word}")
    for module, needing in sorted(lacking.items()):
        yield ok(
            "plugins.missing",
            f"{module} is not installed, which {_listing(needing)} {_needs(needing)}",
            remedy=install_command(module),
        )


def _component(entry: Entry, lacking: dict[str, list[str]]) -> Finding | None:
    label = f"{entry.kind}:{entry.name}"
    try:
        component = load(entry.kind, entry.name)
    except PluginError as error:
        return problem(
            "plugins.imports",
            error.message,
            remedy=f"pip install --upgrade {entry.distribution}, or pip uninstall it",
            concerns=label,
        )
    for module in component.requires:
        if not importable(module):
            lacking[module].append(f"{entry.kind} {entry.name}")
    return None


def _command(entry: Entry) -> Finding | None:
    try:
        command_points()[entry.name].load()
    except Exception as error:  # a plugin may raise anything
        reason = error.message if isinstance(error, PluginError) else None
        return problem(
            "plugins.imports",
            reason
            or f"command '{entry.name}' ({entry.target} of {entry.distribution}) cannot be loaded: "
            f"{type(error).__name__}: {error}",
            remedy=f"pip install --upgrade {entry.distribution}, or pip uninstall it",
            concerns=f"{COMMAND}:{entry.name}",
        )
    return None


def _listing(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _needs(names: list[str]) -> str:
    return "needs" if len(names) == 1 else "need"
