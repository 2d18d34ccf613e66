"""The schedule ``wsd``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from llmforge import Problem, RunContext, hookimpl
from llmforge_plugins.schedules._warmup import DecayOptions, WarmupSchedule, fall


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
