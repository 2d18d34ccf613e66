"""The schedules: a warm-up, then ``constant``, ``linear``, ``cosine`` or ``wsd``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated

from pydantic import Field, model_validator

from llmforge import Component, Options, Problem, RunContext, hookimpl
from llmforge.errors import RecipeError

Schedule = Callable[[int], float]
"""From the step about to be taken, counted from 0, to a factor of the peak learning rate."""


class WarmupOptions(Options):
    """Options of every schedule."""

    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps over which the rate rises in a straight line; give this or ``warmup``."""
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The same as a fraction of all steps; give this or ``warmup_steps``."""
    total_steps: Annotated[int, Field(gt=0)] | None = None
    """Steps the schedule spans; absent: the length of the run."""

    @model_validator(mode="after")
    def _one_warmup(self) -> WarmupOptions:
        if self.warmup_steps is not None and self.warmup is not None:
            raise ValueError("give warmup_steps or warmup, not both")
        return self


class DecayOptions(WarmupOptions):
    """Options of the schedules that fall."""

    min_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The factor that the decay heads for; it would be reached one step after the last."""


class WarmupSchedule(Component, ABC):
    """Base of the schedules: warm-up first, then :meth:`factor_after_warmup`.

    Past the last step the factor stays where it was there.
    """

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Check that the phases fit into the span, once it is known."""
        total = self._total(run)
        if total < 1 or self.warmup_steps(total) < total:
            return []
        key = "warmup" if self.options.warmup_steps is None else "warmup_steps"
        return [
            Problem(
                key=f"schedule.{self.name}.{key}",
                message=f"a warm-up of {self.warmup_steps(total)} steps does not end before the "
                f"schedule's {total} steps do",
                remedy="make the warm-up shorter or the training longer",
            )
        ]

    @hookimpl
    def forge_build_schedule(self, run: RunContext) -> Schedule:
        """Return the schedule over ``total_steps``, or else ``run.schedule_steps``.

        Raises:
            RecipeError: the phases do not fit; of a run over epochs this is known only now.
        """
        if problems := self.forge_preflight(run):
            raise RecipeError(problems)
        total = max(self._total(run), 1)
        warmup = self.warmup_steps(total)

        def factor(step: int) -> float:
            # The first step counts as 1, so that it is not wasted at rate 0.
            if step < warmup:
                return (step + 1) / warmup
            return self.factor_after_warmup(min(step, total - 1), warmup, total)

        return factor

    @abstractmethod
    def factor_after_warmup(self, step: int, warmup: int, total: int) -> float:
        """Return the factor at a step from ``warmup`` to ``total - 1``."""

    def warmup_steps(self, total: int) -> int:
        """Return the steps of the warm-up within a schedule of ``total`` steps."""
        if self.options.warmup_steps is not None:
            return int(self.options.warmup_steps)
        return round((self.options.warmup or 0.0) * total)

    def _total(self, run: RunContext) -> int:
        return int(self.options.total_steps or run.schedule_steps)


def fall(progress: float, floor: float) -> float:
    """Return the factor on a straight line from 1 to ``floor`` at ``progress`` in [0, 1]."""
    return 1.0 - (1.0 - floor) * progress


class Constant(WarmupSchedule, kind="schedule"):
    """The peak learning rate after the warm-up, unchanged to the end."""

    class Options(WarmupOptions):
        """Options of ``[schedule.constant]``."""

    def factor_after_warmup(self, step: int, warmup: int, total: int) -> float:
        """Return 1."""
        del step, warmup, total
        return 1.0


class Linear(WarmupSchedule, kind="schedule"):
    """A straight fall from the peak to ``min_ratio`` of it after the warm-up."""

    class Options(DecayOptions):
        """Options of ``[schedule.linear]``."""

    def factor_after_warmup(self, step: int, warmup: int, total: int) -> float:
        """Return the factor on the line from (warmup, 1) to (total, min_ratio)."""
        return fall((step - warmup) / (total - warmup), self.options.min_ratio)


class Cosine(WarmupSchedule, kind="schedule"):
    """Half a cosine wave from the peak to ``min_ratio`` of it after the warm-up.

    One period without restarts of Loshchilov and Hutter, "SGDR" (2017), equation 5.
    """

    class Options(DecayOptions):
        """Options of ``[schedule.cosine]``."""

    def factor_after_warmup(self, step: int, warmup: int, total: int) -> float:
        """Return the factor on the wave from (warmup, 1) to (total, min_ratio)."""
        progress = (step - warmup) / (total - warmup)
        return fall((1.0 - math.cos(math.pi * progress)) / 2.0, self.options.min_ratio)


class Wsd(WarmupSchedule, kind="schedule"):
    """Warm-up, stable, decay: the peak for most of the run, then a short straight fall.

    Hu et al., "MiniCPM" (2024), section 4, who find a tenth of the steps enough for the decay.
    A longer run can resume from any checkpoint of the stable phase.
    """

    class Options(DecayOptions):
        """Options of ``[schedule.wsd]``."""

        decay: Annotated[float, Field(ge=0, le=1)] = 0.1
        """Fraction of all steps in which the rate falls to ``min_ratio``."""

        @model_validator(mode="after")
        def _phases_fit(self) -> Wsd.Options:
            if (self.warmup or 0.0) + self.decay > 1:
                raise ValueError(
                    f"warmup {self.warmup} and decay {self.decay} are more than the whole run"
                )
            return self

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Check also that warm-up and decay do not overlap."""
        problems = super().forge_preflight(run)
        total = self._total(run)
        phases = self.warmup_steps(total) + self._decay_steps(total)
        if problems or total < 1 or phases <= total:
            return problems
        return [
            Problem(
                key=f"schedule.{self.name}.decay",
                message=f"warm-up and decay take {phases} steps, the schedule spans {total}",
                remedy="make one of them shorter or the training longer",
            )
        ]

    def factor_after_warmup(self, step: int, warmup: int, total: int) -> float:
        """Return 1, and in the last phase the factor on the line to (total, min_ratio)."""
        del warmup
        decay = self._decay_steps(total)
        left = total - step
        return fall((decay - left) / decay, self.options.min_ratio) if left < decay else 1.0

    def _decay_steps(self, total: int) -> int:
        return round(self.options.decay * total)
