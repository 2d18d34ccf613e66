"""The schedule ``constant``."""

from __future__ import annotations

from llmforge_plugins.schedules._warmup import WarmupOptions, WarmupSchedule


class Constant(WarmupSchedule, kind="schedule"):
    """The peak learning rate after the warm-up, unchanged to the end."""

    class Options(WarmupOptions):
        """Options of ``[schedule.constant]``."""

    def factor_after_warmup(self, step: int, warmup: int, total: int) -> float:
        """Return 1."""
        del step, warmup, total
        return 1.0
