"""What a component is: the class that implements one kind, and the table of all kinds."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmforge.errors import PluginError, Problem
from llmforge.hookspecs import HOOK_PREFIX, PROJECT
from llmforge.installed import install_command
from llmforge.options import IDENTITY, MACHINE, SAFE, Options, Scope

if TYPE_CHECKING:
    from llmforge.events import Event
    from llmforge.interfaces import Direction, Needs


@dataclass(frozen=True)
class Kind:
    """An extension point.

    Attributes:
        name: the recipe table, for example ``tracker``.
        group: the entry-point group its components are listed in.
        factory: the hook a component of this kind must implement, or None.
        many: whether a recipe may select several (``names = [...]``).
        scope: what selecting another component means for an existing run.
        options: option names every component of this kind must offer.
        also: further hooks a component of this kind must implement.
        optional: whether a recipe may leave the kind out altogether.
    """

    name: str
    group: str
    factory: str | None
    many: bool = False
    scope: Scope = IDENTITY
    options: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    optional: bool = False


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("model", "llmforge.models", "forge_build_model", options=("context",)),
        Kind("adapter", "llmforge.adapters", "forge_build_adapter", optional=True),
        Kind(
            "tokenizer",
            "llmforge.tokenizers",
            "forge_build_tokenizer",
            also=("forge_load_tokenizer",),
        ),
        Kind("data", "llmforge.data", "forge_build_data"),
        Kind("objective", "llmforge.objectives", "forge_build_objective"),
        Kind("optimizer", "llmforge.optimizers", "forge_build_optimizer", options=("lr",)),
        Kind("schedule", "llmforge.schedules", "forge_build_schedule"),
        Kind("backend", "llmforge.backends", "forge_build_backend", scope=MACHINE),
        Kind("tracker", "llmforge.trackers", None, many=True, scope=SAFE),
        Kind("storage", "llmforge.storage", "forge_open_storage", scope=SAFE),
        Kind("sweep", "llmforge.sweep", "forge_build_sweeper", scope=SAFE, optional=True),
        Kind("generation", "llmforge.generation", "forge_build_generator", scope=SAFE),
        Kind("metric", "llmforge.metrics", "forge_build_metric", many=True, scope=SAFE),
        Kind("deploy", "llmforge.deployments", "forge_open_deployment", scope=SAFE),
        Kind("callback", "llmforge.callbacks", None, many=True, scope=SAFE),
    )
}


class Component:
    """Base of every component; the instance is the pluggy plugin.

    A component's module stays light: it imports no torch and no heavy package; the work sits in
    a module beside it that the hook method imports. Subclass it like this::

        class Shout(Component, kind="tracker"):
            '''Prints every metric in capitals.'''

            class Options(llmforge.Options):
                suffix: str = "!"

            @hookimpl
            def forge_metrics(self, event):
                print(str(event.values).upper() + self.options.suffix)

    Attributes:
        kind: the extension point it implements, set by the class keyword.
        name: the name it is selected by, set from its entry point when it is loaded.
        requires: modules that must be importable, checked before step 0. What to install for one
            that is missing is read from the metadata of the installed packages.
        credentials: variables of the environment that hold its secrets, for example
            ``WANDB_API_KEY``; named where a recipe has a secret in it.
        supports: capabilities other parts may ask for, for example ``{"kv_cache"}``.
        viewer: the command that shows what a tracker wrote into its ``{directory}``.
        link: where a tracker's data can be seen, a URL or a command, once an instance knows it;
            better than ``viewer`` for what is not in the run.
        address: of the run in a tracker's service, once an instance knows it, as its
            ``forge_open_tracked_run`` takes it.
        needs: what a metric compares: generated ``answers``, or predicted ``labels``.
        direction: whether more or less of what it ``measures`` is better: ``maximize`` or
            ``minimize``.
        address_form: of what a deployment takes, for example ``hf://OWNER/NAME``: words in
            capitals stand for names.
        needs_network: whether a deployment always asks a service of the internet, so that
            ``FORGE_OFFLINE`` forbids it.
    """

    kind: ClassVar[str]
    name: str = ""
    requires: ClassVar[tuple[str, ...]] = ()
    credentials: ClassVar[tuple[str, ...]] = ()
    supports: ClassVar[frozenset[str]] = frozenset()
    viewer: ClassVar[str] = ""
    link: str = ""
    address: str = ""
    needs: ClassVar[Needs] = "answers"
    direction: ClassVar[Direction] = "maximize"
    address_form: ClassVar[str] = ""
    needs_network: ClassVar[bool] = False
    Options: ClassVar[type[Options]] = Options

    def __init_subclass__(cls, *, kind: str | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if kind is not None:
            cls.kind = kind
        if hasattr(cls, "kind"):
            _check(cls)

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None else options

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back what ``forge_checkpoint_state`` returned before the resume."""

    def has_arrived(self, event: Event) -> bool:
        """Return whether an event that this tracker took is where it belongs; the courier asks.

        A tracker that only hands events to a queue of its own overrides this. Events that have
        not arrived stay in the journal for a later process, whose tracker then skips what did
        arrive after all. Asked often, about the oldest such event; it may raise like a hook.
        """
        del event
        return True

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether every checkpoint this tracker is notified of stays in its service for good.

        Such checkpoints count as uploads where a recipe has no storage: the courier reads each
        back through ``forge_open_tracked_run``, and one that is sound need not stay here.
        """
        return False

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what a metric or objective measures at evaluations, without ``val/``.

        Of a metric its own name, unless it says otherwise; of an objective what it measures besides
        the loss. ``direction`` says whether more of it is better.
        """
        return (self.name,) if self.kind == "metric" else ()

    def missing_packages(self) -> list[Problem]:
        """Return a problem for every package in ``requires`` that cannot be imported."""
        return [
            Problem(
                key=f"{self.kind}.{self.name}",
                message=f"{self.kind} '{self.name}' needs the {module} package",
                remedy=install_command(module),
            )
            for module in self.requires
            if not importable(module)
        ]


def importable(module: str) -> bool:
    """Return whether ``module`` is installed, without importing it (its parents are imported)."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the parent package is missing, or a stand-in has no spec
        return False


def _check(cls: type[Component]) -> None:
    """Enforce the rules of a component when its class is defined."""
    where = f"{cls.__module__}.{cls.__qualname__}"
    kind = KINDS.get(cls.kind)
    if kind is None:
        raise PluginError(f"{where}: unknown kind '{cls.kind}'; known: {', '.join(KINDS)}")
    if not (inspect.isclass(cls.Options) and issubclass(cls.Options, Options)):
        raise PluginError(f"{where}: its Options must derive from llmforge.Options")
    if not cls.__doc__:
        raise PluginError(f"{where}: a component needs a docstring; 'forge plugins' shows it")
    for hook in (kind.factory, *kind.also):
        if hook and not hasattr(cls, hook):
            raise PluginError(f"{where}: a {kind.name} must implement {hook}")
    for name in dir(cls):
        # pluggy never looks at an undecorated method: it would be ignored without a word
        if name.startswith(HOOK_PREFIX) and not hasattr(getattr(cls, name), f"{PROJECT}_impl"):
            raise PluginError(f"{where}: {name} looks like a hook but is not marked @hookimpl")
    for option in kind.options:
        if option not in cls.Options.model_fields:
            raise PluginError(f"{where}: the options of a {kind.name} must include '{option}'")
