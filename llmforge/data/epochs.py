"""At which optimizer steps epochs end."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction


class Epochs:
    """Passes over the training data in optimizer steps, exact at any length.

    A step takes ``batch_size`` windows, which seldom divide the data: a batch may have the last
    windows of one epoch and the first of the next. Epoch k ends at the step that takes its last
    window, ceil(k · windows / batch), so the ends never drift.

    Args:
        n_windows: windows in one pass over the data.
        batch_size: windows per optimizer step, over all ranks.
    """

    def __init__(self, *, n_windows: int, batch_size: int) -> None:
        self.n_windows = n_windows
        self.batch_size = batch_size

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in one pass over the data; seldom a whole number."""
        return self.n_windows / self.batch_size

    def end(self, epochs: float | Fraction) -> int:
        """Return the step at which ``epochs`` passes, which may be a fraction, are complete."""
        return math.ceil(_exact(epochs) * self.n_windows / self.batch_size)

    def ends(self, step: int, *, every: float | Fraction = 1) -> bool:
        """Return whether a multiple of ``every`` epochs becomes complete at ``step``."""
        length = _exact(every) * self.n_windows
        before, after = (step - 1) * self.batch_size, step * self.batch_size
        return after // length > before // length

    def due(self, interval: int | Fraction | None) -> Callable[[int], bool]:
        """Return a function that says whether something is due at a step.

        Args:
            interval: a number of steps, or epochs as a :class:`~fractions.Fraction`; None: never.
        """
        if interval is None:
            return lambda _: False
        if isinstance(interval, Fraction):
            return lambda step: self.ends(step, every=interval)
        return lambda step: step % interval == 0


def _exact(epochs: float | Fraction) -> Fraction:
    # Of the decimal that was written: 0.1 is a tenth here, and no binary number is.
    return epochs if isinstance(epochs, Fraction) else Fraction(str(epochs))
