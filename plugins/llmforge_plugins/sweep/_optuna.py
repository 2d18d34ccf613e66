"""Proposals of Optuna's samplers as pure functions of what was tried.

A sampler keeps state in its study and its generator. Both are made afresh for every proposal: the
study in memory, out of the history, and the generator from the seed and the proposal's number.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from llmforge.interfaces import Dimension, Direction, Point, Space
from llmforge_plugins.sweep._pruning import Pruner
from llmforge_plugins.sweep.grid import untried

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
}
_REPLAYED = ("cmaes", "qmc")
"""Samplers that remember what they handed out: the history is handed out to them again."""


class OptunaSweeper:
    """Proposes what one of Optuna's samplers suggests."""

    def __init__(
        self,
        space: Space,
        options: Any,
        pruner: Pruner,
        *,
        direction: Direction,
        seed: int,
    ) -> None:
        self._space = space
        self._options = options
        self._direction = direction
        self._seed = seed
        self._distributions = {item.key: _distribution(item) for item in space.dimensions}
        self.prune = pruner.prune
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def propose(self, number: int, history: Sequence[Point]) -> Mapping[str, Any] | None:
        """Return what the sampler suggests after ``history``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(direction=self._direction, sampler=self._sampler(number))
            if self._options.sampler in _REPLAYED:
                self._replay(study, history)
            else:
                study.add_trials([self._frozen(point) for point in history])
            return untried(lambda: self._suggested(study.ask()), self._space, history)

    def _sampler(self, number: int) -> BaseSampler:
        options, drawn = self._options, _derived(self._seed, number)
        samplers = optuna.samplers
        independent = samplers.RandomSampler(seed=drawn)
        if options.sampler == "tpe":
            return samplers.TPESampler(
                seed=drawn,
                n_startup_trials=options.startup_points,
                multivariate=options.multivariate,
                group=options.multivariate,
                constant_liar=True,
            )
        if options.sampler == "gp":
            return samplers.GPSampler(
                seed=drawn,
                n_startup_trials=options.startup_points,
                independent_sampler=independent,
            )
        if options.sampler == "cmaes":
            return samplers.CmaEsSampler(
                seed=_derived(self._seed, 0),
                independent_sampler=independent,
            )
        if options.sampler == "qmc":
            return samplers.QMCSampler(
                scramble=True,
                seed=_derived(self._seed, 0),
                independent_sampler=independent,
                warn_asynchronous_seeding=False,
            )
        return independent

    def _frozen(self, point: Point) -> optuna.trial.FrozenTrial:
        state = _STATES[point.state]
        if state is TrialState.COMPLETE and point.value is None:
            state = TrialState.FAIL
        return create_trial(
            state=state,
            value=point.value if state is TrialState.COMPLETE else None,
            params=dict(point.parameters),
            distributions={key: self._distributions[key] for key in point.parameters},
            intermediate_values=dict(point.curve),
        )

    def _replay(self, study: optuna.Study, history: Sequence[Point]) -> None:
        for point in history:
            study.enqueue_trial(dict(point.parameters))
            trial = study.ask()
            _ = trial.relative_params  # what the sampler hands out, and remembers having done so
            self._suggested(trial)
            if point.state == "completed" and point.value is not None:
                study.tell(trial, point.value)
            elif point.state != "running":
                study.tell(trial, state=TrialState.FAIL)

    def _suggested(self, trial: optuna.Trial) -> dict[str, Any]:
        point: dict[str, Any] = {}
        for dimension in self._space.dimensions:
            if self._space.is_active(dimension, point):
                point[dimension.key] = _suggested(trial, dimension)
        return point


def _suggested(trial: optuna.Trial, dimension: Dimension) -> Any:
    name, low, high = dimension.key, dimension.low, dimension.high
    if dimension.kind == "choice":
        return trial.suggest_categorical(name, dimension.choices)
    if dimension.kind == "int":
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(low), int(high), step=step, log=dimension.log)
    return trial.suggest_float(name, low, high, step=dimension.step, log=dimension.log)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "int":
        step = int(dimension.step or 1)
        low, high = int(dimension.low), int(dimension.high)
        return IntDistribution(low, high, log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _derived(seed: int, number: int) -> int:
    """Return a seed of 32 bits for one proposal."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
