"""Loss sums of a run, kept on the device so that a step never waits for a number."""

from __future__ import annotations

import torch

from llmforge.interfaces.backend import StepResult
from llmforge.run.state import TrainerState


class LossTotals:
    """Sums of the loss since the last row and over the current epoch, and the last gradient norm.

    Reading a value synchronises with the device; :meth:`add` does not.

    Args:
        state: where the sums went on from, and where :meth:`store` writes them back.
        device: of the loss tensors.
    """

    def __init__(self, state: TrainerState, *, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._state = state
        self._window = torch.tensor(state.window["loss_sum"], dtype=dtype, device=device)
        self._epoch = torch.tensor(state.epoch["loss_sum"], dtype=dtype, device=device)
        self._grad_norm: torch.Tensor | float = state.grad_norm

    def add(self, result: StepResult, *, targets: int) -> None:
        """Take the result of one optimizer step over ``targets`` tokens."""
        self._window += result.loss_sum
        self._epoch += result.loss_sum
        self._grad_norm = result.grad_norm
        self._state.window["targets"] += targets
        self._state.epoch["targets"] += targets

    def window_mean(self) -> float:
        """Return the mean loss per token since the last row, in nats."""
        return float(self._window) / self._state.window["targets"]

    def epoch_mean(self) -> float:
        """Return the token-weighted mean loss of the current epoch, in nats."""
        return float(self._epoch) / self._state.epoch["targets"]

    def grad_norm(self) -> float:
        """Return the gradient norm of the last step."""
        return float(self._grad_norm)

    def begin_window(self) -> None:
        """Start the sum of the next row."""
        self._window.zero_()
        self._state.window["targets"] = 0

    def begin_epoch(self) -> None:
        """Start the sum of the next epoch."""
        self._epoch.zero_()
        self._state.epoch["targets"] = 0

    def store(self) -> None:
        """Write the sums and the gradient norm into the state."""
        self._state.window["loss_sum"] = float(self._window)
        self._state.epoch["loss_sum"] = float(self._epoch)
        self._state.grad_norm = self.grad_norm()
