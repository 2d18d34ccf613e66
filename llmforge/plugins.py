"""Finding components by entry point, loading the ones a recipe names, and one manager per run.

Loading is llmforge's own: pluggy's loader skips duplicate names silently and loads everything.
``FORGE_PLUGINS`` restricts which distributions are looked at: a comma-separated list of names;
llmforge's own components always stay available, and an empty value allows nothing else.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from llmforge import hookspecs
from llmforge.component import KINDS, Component, Kind
from llmforge.errors import PluginError
from llmforge.options import closest

COMMAND = "command"
COMMANDS_GROUP = "llmforge.commands"
_OWN = "llmforge"


@dataclass(frozen=True)
class Entry:
    """A component as its distribution's metadata lists it; nothing is imported yet."""

    kind: str
    name: str
    target: str
    distribution: str
    version: str


def listed(kind: str | None = None) -> list[Entry]:
    """Return everything installed for ``kind`` (or for all), read from metadata only.

    Commands are listed under the kind ``command``. Names two distributions share appear twice,
    and ``FORGE_PLUGINS`` is obeyed.
    """
    groups = {item.name: item.group for item in KINDS.values()} | {COMMAND: COMMANDS_GROUP}
    chosen = groups if kind is None else {kind: groups[kind]}
    found = [entry for name, group in chosen.items() for entry in _entries_of(name, group)]
    return sorted(found, key=lambda entry: (list(groups).index(entry.kind), entry.name))


def refresh() -> None:
    """Forget what is installed, so that a package installed since is found."""
    for cached in (_all_points, _entries, _load):
        cached.cache_clear()


def allowed(distribution: str) -> bool:
    """Return whether ``FORGE_PLUGINS`` lets this distribution's plugins load."""
    value = os.environ.get("FORGE_PLUGINS")
    if value is None or distribution == _OWN:
        return True
    return _normalised(distribution) in {_normalised(item) for item in value.split(",")}


def entries(kind: str) -> dict[str, Entry]:
    """Return the components listed for ``kind`` by name.

    Raises:
        PluginError: two distributions list the same name.
    """
    return _entries(KINDS[kind], os.environ.get("FORGE_PLUGINS"))


def load(kind: str, name: str) -> type[Component]:
    """Import and return the class of one component.

    Raises:
        PluginError: no such component, or it cannot be imported, or it is not of this kind.
    """
    everything = entries(kind)
    found = everything.get(name)
    if found is None:
        raise PluginError(unknown_component(kind, name), remedy=suggestion(kind, name))
    aliases = [item.name for item in everything.values() if item.target == found.target]
    if len(aliases) > 1:
        raise PluginError(
            f"{found.target} of {found.distribution} is listed as {' and '.join(aliases)}",
            remedy="a component has one name: derive a class for the other",
        )
    return _load(found)


def unknown_component(kind: str, name: str) -> str:
    """Return the message for a component name nobody lists."""
    return f"unknown {kind} '{name}'"


def suggestion(kind: str, name: str) -> str:
    """Return the remedy for an unknown component name."""
    names = sorted(entries(kind))
    near = closest(name, names)
    if near:
        return f"did you mean '{near}'?"
    listed = ", ".join(names) or "none installed"
    return f"available: {listed}; 'forge plugins list' shows where each comes from"


def commands() -> dict[str, EntryPoint]:
    """Return the entry points of third-party CLI commands by name, not loaded.

    Raises:
        PluginError: two distributions list the same name.
    """
    _unique(_entries_of(COMMAND, COMMANDS_GROUP))
    return {
        point.name: point for point in _points(COMMANDS_GROUP) if allowed(_distribution(point)[0])
    }


def build_manager(components: Iterable[Component]) -> pluggy.PluginManager:
    """Return a manager with llmforge's hooks and exactly these components registered.

    Raises:
        PluginError: a component implements a hook that does not exist or with wrong arguments,
            or two components have the same kind and name.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for component in components:
        label = f"{component.kind}:{component.name}"
        if manager.has_plugin(label):
            raise PluginError(f"{label} is selected twice")
        try:
            manager.register(component, name=label)
        except pluggy.PluginValidationError as error:
            raise PluginError(f"{label}: {error}") from error
    _check_hooks(manager)
    return manager


def _check_hooks(manager: pluggy.PluginManager) -> None:
    known = [name for name in vars(hookspecs) if name.startswith(hookspecs.HOOK_PREFIX)]
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = [name for name in vars(manager.hook) if name not in known and name[0] != "_"]
        label = manager.get_name(error.plugin)
        near = closest(unknown[0], known)
        raise PluginError(
            f"{label} implements {unknown[0]}, which is no hook of llmforge",
            remedy=f"did you mean {near}?" if near else "docs/hooks.md lists the hooks",
        ) from error


def call_factory(manager: pluggy.PluginManager, hook: str, **arguments: Any) -> Any:
    """Call a factory hook and return what the one selected component built.

    Raises:
        PluginError: no component answers, several do, or the answer is None.
    """
    caller = getattr(manager.hook, hook)
    implementations = caller.get_hookimpls()
    # a wrapper changes what the provider built; it builds nothing itself
    providers = [
        item.plugin_name for item in implementations if not (item.wrapper or item.hookwrapper)
    ]
    if len(providers) != 1:
        listed = ", ".join(providers) or "none"
        raise PluginError(f"{hook} needs exactly one provider, found {listed}")
    built = caller(**arguments)
    if built is None:
        raise PluginError(f"{hook} of {providers[0]} returned None; it must return what it built")
    return built


class Notifier:
    """Calls lifecycle hooks so that one failing component neither stops nor hides another.

    Every component gets a copy of the event, so that changing it reaches nobody else.

    Args:
        manager: the run's manager.
        on_error: told (component name, hook, exception) for every failure.
    """

    def __init__(
        self,
        manager: pluggy.PluginManager,
        on_error: Callable[[str, str, Exception], None],
    ) -> None:
        self._manager = manager
        self._on_error = on_error

    def __call__(self, hook: str, **arguments: Any) -> None:
        """Call ``hook`` on every component, each on its own."""
        for name, caller in self._callers(hook):
            try:
                caller(**copy.deepcopy(arguments))
            except SystemExit as error:  # a library that gives up by exiting must not end the run
                self._on_error(name, hook, RuntimeError(f"it called sys.exit({error.code!r})"))
            except Exception as error:  # a plugin may raise anything; it is reported, not lost
                self._on_error(name, hook, error)

    def _callers(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        plugins = self._manager.get_plugins()
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            others = plugins - {implementation.plugin}
            yield (
                implementation.plugin_name,
                self._manager.subset_hook_caller(hook, remove_plugins=others),
            )


@lru_cache(maxsize=64)
def _entries(kind: Kind, _restriction: str | None) -> dict[str, Entry]:
    return _unique(_entries_of(kind.name, kind.group))


def _unique(entries: Iterable[Entry]) -> dict[str, Entry]:
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


def _entries_of(kind: str, group: str) -> Iterator[Entry]:
    for point in _points(group):
        distribution, version = _distribution(point)
        if allowed(distribution):
            yield Entry(kind, point.name, point.value, distribution, version)


@lru_cache(maxsize=256)
def _load(entry: Entry) -> type[Component]:
    label = f"{entry.kind} '{entry.name}' ({entry.target} of {entry.distribution})"
    try:
        loaded = EntryPoint(entry.name, entry.target, KINDS[entry.kind].group).load()
    except Exception as error:
        raise PluginError(
            f"{label} cannot be loaded: {type(error).__name__}: {error}",
            remedy="a component's module must import without its heavy packages",
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Component)):
        raise PluginError(f"{label} is not a class derived from llmforge.Component")
    if getattr(loaded, "kind", None) != entry.kind:
        raise PluginError(f"{label} is of kind '{getattr(loaded, 'kind', None)}'")
    loaded.name = entry.name
    return loaded


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
