"""Loading the components a recipe names, and one pluggy manager per run.

Loading is llmforge's own: pluggy's loader skips duplicate names silently and loads everything.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pluggy

from llmforge import hookspecs, installed
from llmforge.component import KINDS, Component, Kind
from llmforge.errors import PluginError
from llmforge.installed import COMMAND, COMMANDS_GROUP, Entry, entries_of, unique
from llmforge.interfaces import public_url
from llmforge.options import closest

_STORAGE_OF_SCHEME = {"file": "local", "gs": "gcs"}
_ANY_SCHEME = "fsspec"
_ADDRESS_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"


def listed(kind: str | None = None) -> list[Entry]:
    """Return everything installed for ``kind`` (or for all), read from metadata only.

    Commands are listed under the kind ``command``. Names two distributions share appear twice,
    and ``FORGE_PLUGINS`` is obeyed.
    """
    groups = {item.name: item.group for item in KINDS.values()} | {COMMAND: COMMANDS_GROUP}
    chosen = groups if kind is None else {kind: groups[kind]}
    found = [entry for name, group in chosen.items() for entry in entries_of(name, group)]
    return sorted(found, key=lambda entry: (list(groups).index(entry.kind), entry.name))


def refresh() -> None:
    """Forget what is installed, so that a package installed since is found."""
    installed.refresh()
    for cached in (_entries, _load):
        cached.cache_clear()


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


def load_component(kind: str, name: str, options: Mapping[str, Any] | None = None) -> Component:
    """Return the component that a recipe selects as ``name``, for one that builds on another.

    Args:
        kind: for example ``backend``.
        name: its name in recipes.
        options: its option table; defaults where absent.

    Raises:
        PluginError: no such component, or it cannot be imported, or its package is missing.
        pydantic.ValidationError: an option is unknown or wrong.
    """
    component = load(kind, name)
    instance = component(component.Options(**(options or {})))
    for problem in instance.missing_packages():
        raise PluginError(problem.message, remedy=problem.remedy)
    return instance


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
            f"{label} implements {unknown[0]}, which is not a hook of llmforge",
            remedy=f"did you mean {near}?" if near else "docs/reference/hooks.md lists the hooks",
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


def call_each_factory(manager: pluggy.PluginManager, hook: str, **arguments: Any) -> dict[str, Any]:
    """Call a factory hook of a kind of which a recipe selects several.

    Returns:
        What each component built, by its name, in the order they are selected.

    Raises:
        PluginError: an answer is None.
    """
    built = {}
    for label, caller in _callers(manager, hook):
        answer = caller(**arguments)
        if answer is None:
            raise PluginError(f"{hook} of {label} returned None; it must return what it built")
        built[label.partition(":")[2]] = answer
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
        for name, caller in _callers(self._manager, hook):
            try:
                caller(**copy.deepcopy(arguments))
            except SystemExit as error:  # a library that gives up by exiting must not end the run
                self._on_error(name, hook, RuntimeError(f"it called sys.exit({error.code!r})"))
            except Exception as error:  # a plugin may raise anything; it is reported, not lost
                self._on_error(name, hook, error)


def collect(manager: pluggy.PluginManager, hook: str, **arguments: Any) -> dict[str, Any]:
    """Call a collecting hook; return each answer by component, as ``kind:name``.

    A component that answers None is left out.
    """
    answers = {name: caller(**arguments) for name, caller in _callers(manager, hook)}
    return {name: answer[0] for name, answer in answers.items() if answer}


def storage_component(url: str, listed: Collection[str]) -> str:
    """Return the name of the storage component for ``url``.

    The scheme's own component if there is one among those ``listed``, else ``fsspec``, which
    takes every scheme that fsspec knows.
    """
    scheme = url.partition("://")[0].lower()
    name = _STORAGE_OF_SCHEME.get(scheme, scheme)
    return name if name in listed else _ANY_SCHEME


def address_problem(address: str) -> tuple[str, str]:
    """Return what is wrong with the address of a deployment and the remedy; nothing if it is right.

    One of a component of the kind ``deploy`` has its form; any other must be a URL of a storage.
    """
    known = entries("deploy")
    scheme, colon, _ = address.partition(":")
    if colon and scheme in known:
        form = load("deploy", scheme).address_form
        if re.fullmatch(re.sub("[A-Z]+", _ADDRESS_PART, re.escape(form)), address):
            return "", ""
        return f"'{public_url(address)}' is not the address of a model", f"write {form}"
    if "://" in address.strip(":/"):
        return _storage_problem(address, scheme)
    forms = [load("deploy", name).address_form for name in sorted(known)]
    near = closest(scheme, known) if colon else None
    remedy = f"write {', '.join(forms)}, or the URL of a storage such as s3://bucket/models/tiny"
    if address.strip("/ ") and not colon:
        remedy += f"; a folder of this machine is file://{Path(address).expanduser().absolute()}"
    return (
        f"'{address}' is not an address to deploy to",
        f"did you mean '{near}:'? {remedy}" if near else remedy,
    )


def _storage_problem(url: str, scheme: str) -> tuple[str, str]:
    """Return why a model cannot be deployed to a storage, by its URL alone."""
    from fsspec import available_protocols

    if scheme == "memory":
        return f"{url} is gone when the command ends", "give a storage that lasts"
    if scheme == "file" and not url.startswith("file:///"):
        return f"'{url}' is not the URL of a folder", "write file:/// and its whole path"
    if scheme not in (*available_protocols(), *entries("storage")):
        return (
            f"'{public_url(url)}' is not in a storage that is known here",
            "such are s3://bucket/models/tiny, gs://… and file:///…",
        )
    return "", ""


def _callers(manager: pluggy.PluginManager, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield each component that implements ``hook``, with a caller for it alone."""
    plugins = manager.get_plugins()
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        others = plugins - {implementation.plugin}
        yield implementation.plugin_name, manager.subset_hook_caller(hook, remove_plugins=others)


@lru_cache(maxsize=64)
def _entries(kind: Kind, _restriction: str | None) -> dict[str, Entry]:
    return unique(entries_of(kind.name, kind.group))


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
