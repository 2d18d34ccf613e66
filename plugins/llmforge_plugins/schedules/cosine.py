"""The schedule ``cosine``."""

from __future__ import annotations

import math

from llmforge_plugins.schedules._warmup import DecayOptions, WarmupSchedule, fall


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
