"""The schedule ``linear``."""

from __future__ import annotations

from llmforge_plugins.schedules._warmup import DecayOptions, WarmupSchedule, fall


class Linear(WarmupSchedule, kind="schedule"):
    """A straight fall from the peak to ``min_ratio`` of it after the warm-up."""

    class Options(DecayOptions):
        """Options of ``[schedule.linear]``."""

    def factor_after_warmup(self, step: int, warmup: int, total: int) -> float:
        """Return the factor on the line from (warmup, 1) to (total, min_ratio)."""
        return fall((step - warmup) / (total - warmup), self.options.min_ratio)
