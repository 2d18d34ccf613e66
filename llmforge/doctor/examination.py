"""All checks in order; one that breaks costs no other, and the network is asked meanwhile.

Each group's module is imported when its turn comes: a package that is missing may be why somebody
runs this.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.doctor.finding import Finding, ok, problem
from llmforge.doctor.host import Host
from llmforge.errors import ForgeError, RecipeError

if TYPE_CHECKING:
    from llmforge.doctor.reachability import Question
    from llmforge.recipe import Recipe

GROUPS = {
    "settings": "Settings",
    "machine": "Machine",
    "torch": "PyTorch",
    "gpu": "GPUs",
    "disk": "Disks",
    "packages": "Packages",
    "plugins": "Plugins",
    "credentials": "Credentials",
    "network": "Network",
    "recipe": "Recipe",
    "training": "Training",
}
"""Titles of the groups, in the order of the checks."""

_NEED_SETTINGS = frozenset({"disk", "network", "recipe", "training"})


class Examination:
    """Looks at this machine and, with a recipe, at what that needs.

    Args:
        load: loads the recipe; None without one. Of what it does not need, problems become
            warnings.
        training: whether to train a tiny model, too.
        given: names of the environment before ``.env`` was read.
        host: the system.
    """

    def __init__(
        self,
        load: Callable[[], Recipe] | None,
        *,
        training: bool,
        given: Set[str],
        host: Host | None = None,
    ) -> None:
        self._load = load
        self._recipe: Recipe | None = None
        self._refused: RecipeError | None = None
        self._training = training
        self._given = given
        self._host = host or Host()
        self._offline = True
        self._questions: Sequence[Question] = ()
        self._cache: Path | None = None

    def findings(self) -> Iterator[Finding]:
        """Yield what is found, a group after the other."""
        configured = True
        needed: Set[str] | None = None
        for group in GROUPS:
            if group in _NEED_SETTINGS and not configured:
                continue
            check: Callable[[], Iterable[Finding]] = getattr(self, f"_check_{group}")
            for finding in _guarded(group, check):
                if group == "settings" and finding.status == "problem":
                    configured = False
                yield finding.weighed(needed)
            if group == "settings" and self._recipe is not None:
                from llmforge.doctor.recipe_needs import needs

                needed = needs(self._recipe)

    def _check_settings(self) -> Iterator[Finding]:
        from llmforge.doctor.reachability import ask_network
        from llmforge.settings import settings

        self._offline, self._cache = settings().offline, settings().cache
        names = sorted({name for name in os.environ if name.startswith("FORGE_")} - {"FORGE_DEBUG"})
        text = ", ".join(f"{name}={os.environ[name]}" for name in names)
        yield ok("settings.variables", text or "no FORGE_ variables are set")
        if Path(".env").exists():
            added = len(set(os.environ) - self._given)
            yield ok("settings.file", f"{added} variables from {Path('.env').absolute()}")
        if self._load is not None:
            try:
                self._recipe = self._load()
            except RecipeError as error:  # told when it is the recipe's turn
                self._refused = error
        self._questions = ask_network(self._recipe, offline=self._offline)

    def _check_machine(self) -> Iterable[Finding]:
        from llmforge.doctor.machine import check_machine

        return check_machine(self._host)

    def _check_torch(self) -> Iterable[Finding]:
        from llmforge.doctor.torch_build import check_torch

        return check_torch(self._host, self._cache)

    def _check_gpu(self) -> Iterable[Finding]:
        from llmforge.doctor.gpus import check_gpus

        return check_gpus(self._host)

    def _check_disk(self) -> Iterable[Finding]:
        from llmforge.doctor.disks import check_disks
        from llmforge.run_root import run_root
        from llmforge.settings import settings

        root = Path(self._recipe.run.root).expanduser() if self._recipe else run_root()
        return check_disks(root, settings().cache)

    def _check_packages(self) -> Iterable[Finding]:
        from llmforge.doctor.packages import check_packages

        return check_packages()

    def _check_plugins(self) -> Iterable[Finding]:
        from llmforge.doctor.plugin_imports import check_plugins

        return check_plugins()

    def _check_credentials(self) -> Iterable[Finding]:
        from llmforge.doctor.credentials import check_credentials

        return check_credentials(self._given)

    def _check_network(self) -> Iterable[Finding]:
        from llmforge.doctor.reachability import answers

        return answers(self._questions, offline=self._offline)

    def _check_recipe(self) -> Iterable[Finding]:
        from llmforge.doctor.recipe_needs import check_recipe, recipe_problems

        if self._refused is not None:
            return recipe_problems(self._refused)
        return () if self._recipe is None else check_recipe(self._recipe)

    def _check_training(self) -> Iterable[Finding]:
        from llmforge.doctor.training import check_training

        return check_training() if self._training else ()


def _guarded(group: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what ``check`` finds; that it breaks off is a problem of its own."""
    try:
        yield from check()
    except ForgeError as error:
        remedy = error.remedy or "correct it"
        yield problem(f"{group}.check", error.message, remedy=remedy)
    except Exception as error:  # a machine may be broken in any way
        yield problem(
            f"{group}.check",
            f"this could not be checked: {type(error).__name__}: {error}",
            remedy="see the problems of packages; else: forge --debug doctor",
        )
