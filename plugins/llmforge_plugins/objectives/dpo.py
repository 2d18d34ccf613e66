"""The objective ``dpo``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

import llmforge
from llmforge import Component, RunContext, hookimpl
from llmforge.interfaces import PREFERENCES, SEQUENCE_LOG_PROBS, Objective

LossName = Literal["sigmoid", "ipo", "simpo", "orpo"]

MEASURES = ("reward_margin", "reward_accuracy")
_ONLY_WITH: dict[str, tuple[LossName, ...]] = {
    "beta": ("sigmoid", "ipo", "simpo"),
    "label_smoothing": ("sigmoid",),
    "gamma": ("simpo",),
    "odds_weight": ("orpo",),
}


class DirectPreference(Component, kind="objective"):
    """Of two answers the chosen one becomes likelier than the rejected one.

    ``loss`` is ``sigmoid`` for DPO (Rafailov et al., "Direct Preference Optimization", 2023) and
    ``ipo`` for its squared loss, which does not run away (Azar et al., "A General Theoretical
    Paradigm to Understand Learning from Human Preferences", 2023): both compare with the model the
    run starts from. ``simpo`` (Meng et al., "SimPO", 2024) and ``orpo`` (Hong et al., "ORPO",
    2024) need no such comparison. The losses are those of the papers, one for each pair.
    """

    supports = frozenset({SEQUENCE_LOG_PROBS, PREFERENCES})

    class Options(llmforge.Options):
        """Options of ``[objective.dpo]``."""

        loss: LossName = "sigmoid"
        """``sigmoid`` (DPO), ``ipo``, ``simpo`` or ``orpo``."""
        beta: Annotated[float, Field(gt=0)] | None = None
        """How closely the model is held to the one it starts from: the larger, the closer. 0.1
        when absent. With ``simpo`` the scale of its rewards, 2 when absent."""
        label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
        """Share of pairs that are taken to be labelled the wrong way round, with ``sigmoid``
        (conservative DPO: Mitchell, "A note on DPO with noisy preferences", 2023)."""
        gamma: Annotated[float, Field(ge=0)] = 1.0
        """By how much the chosen answer's reward should exceed the other's, with ``simpo``."""
        odds_weight: Annotated[float, Field(gt=0)] = 0.1
        """Weight of the odds ratio beside the loss of the chosen answer, with ``orpo``: its
        λ."""

        @model_validator(mode="after")
        def _options_of_the_loss(self) -> DirectPreference.Options:
            for name, losses in _ONLY_WITH.items():
                default = type(self).model_fields[name].default
                if self.loss not in losses and getattr(self, name) != default:
                    known = " and ".join(f'"{loss}"' for loss in losses)
                    raise ValueError(
                        f'{name} = {getattr(self, name)} is of {known}, not "{self.loss}"'
                    )
            return self

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what an evaluation measures besides the loss."""
        return MEASURES

    @hookimpl
    def forge_build_objective(self, run: RunContext) -> Objective:
        """Return the objective."""
        from llmforge_plugins.objectives._dpo import PreferencePairs

        del run
        return PreferencePairs(self.options, measures=self.measures)
