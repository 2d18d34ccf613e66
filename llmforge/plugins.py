"""Finding components by entry point, loading the ones a recipe names, and one manager per run.

Loading is llmforge's own: pluggy's loader skips duplicate names silently and loads everything.
``FORGE_PLUGINS`` restricts which distributions are looked at: a comma-separated list of names;
llmforge's own components always stay available, and an empty value allows nothing else.
"""

from __future__ import annotations

import os
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
    found = entries(kind).get(name)
    if found is None:
        raise PluginError(unknown_component(kind, name), remedy=suggestion(kind, name))
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
    """Return the entry points of third-party CLI commands by name, not loaded."""
    return {
        point.name: point for point in _points(COMMANDS_GROUP) if allowed(_distribution(point)[0])
    }


def build_manager(components: Iterable[Component]) -> pluggy.PluginManager:
    """Return a manager with llmforge's hooks and exactly these components registered.

    Raises:
        PluginError: a component implements a hook that does not exist or with wrong arguments.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for component in components:
        try:
            manager.register(component, name=f"{component.kind}:{component.name}")
        except pluggy.PluginValidationError as error:
            raise PluginError(str(error)) from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{error}; see the hooks reference for the known names") from error
    return manager


def call_factory(manager: pluggy.PluginManager, hook: str, **arguments: Any) -> Any:
    """Call a factory hook and return what the one selected component built.

    Raises:
        PluginError: no component answers, several do, or the answer is None.
    """
    caller = getattr(manager.hook, hook)
    providers = [impl.plugin_name for impl in caller.get_hookimpls()]
    if len(providers) != 1:
        listed = ", ".join(providers) or "none"
        raise PluginError(f"{hook} needs exactly one provider, found {listed}")
    built = caller(**arguments)
    if built is None:
        raise PluginError(f"{hook} of {providers[0]} returned None; it must return what it built")
    return built


class Notifier:
    """Calls lifecycle hooks so that one failing component neither stops nor hides another.

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
                caller(**arguments)
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
    found: dict[str, Entry] = {}
    for point in _points(kind.group):
        distribution, version = _distribution(point)
        if not allowed(distribution):
            continue
        entry = Entry(kind.name, point.name, point.value, distribution, version)
        other = found.get(point.name)
        if other is not None and other.target != entry.target:
            raise PluginError(
                f"two {kind.name} components are named '{point.name}': "
                f"{other.target} of {other.distribution} and {entry.target} of {distribution}",
                remedy="uninstall one of them, or set FORGE_PLUGINS to the one to load",
            )
        found[point.name] = entry
    return found


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
    return name.strip().lower().replace("_", "-")
