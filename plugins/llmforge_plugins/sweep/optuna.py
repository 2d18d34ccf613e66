"""The sweeper ``optuna``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from llmforge import Component, Problem, hookimpl, install_command
from llmforge.interfaces import Direction, Space
from llmforge_plugins.sweep._pruning import Pruner, PruningOptions

if TYPE_CHECKING:
    from llmforge_plugins.sweep._optuna import OptunaSweeper

_NEEDS = {"cmaes": "cmaes", "gp": "scipy", "qmc": "scipy"}


class Optuna(Component, kind="sweep"):
    """Optuna's samplers, which learn from the trials so far (Akiba et al., 2019)."""

    supports = frozenset({"endless_values"})
    requires = ("optuna",)

    class Options(PruningOptions):
        """Options of ``[sweep.optuna]``."""

        sampler: Literal["tpe", "gp", "cmaes", "qmc", "random"] = "tpe"
        """``tpe``: tree-structured Parzen estimators; ``gp``: a Gaussian process, for few and
        costly trials; ``cmaes``: an evolution strategy, for many numbers and many trials;
        ``qmc``: points spread evenly (Sobol'); ``random``."""
        startup_points: Annotated[int, Field(ge=1)] = 5
        """Points that ``tpe`` and ``gp`` draw at random before they begin to learn."""
        multivariate: bool = True
        """Let ``tpe`` learn which keys belong together."""

    @hookimpl
    def forge_build_sweeper(self, space: Space, direction: Direction, seed: int) -> OptunaSweeper:
        """Build the sweeper."""
        from llmforge_plugins.sweep._optuna import OptunaSweeper

        pruner = Pruner(self.options, direction=direction, seed=seed)
        return OptunaSweeper(space, self.options, pruner, direction=direction, seed=seed)

    def missing_packages(self) -> list[Problem]:
        """Return a problem for every package that the chosen sampler lacks."""
        needed = _NEEDS.get(self.options.sampler)
        found = super().missing_packages()
        if needed is not None and find_spec(needed) is None:
            found.append(
                Problem(
                    key="sweep.optuna.sampler",
                    message=f"the sampler '{self.options.sampler}' needs the {needed} package",
                    remedy=install_command(needed),
                )
            )
        return found
