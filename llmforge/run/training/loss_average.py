"""Losses of a run, kept on the device so that a step never waits for a number."""

from __future__ import annotations

import torch

from llmforge.distributed import Team
from llmforge.interfaces.backend import StepResult
from llmforge.run.trainer_state import TrainerState


class LossTotals:
    """The loss over the last steps and over the current epoch, and the last gradient norm.

    Reading a value synchronises with the device; :meth:`add` does not.

    Args:
        state: where the losses are kept once they are read; a resumed run has those before it.
        device: of the loss tensors.
        team: the ranks whose losses are added up; each keeps its own until they are read.
        window: steps that the loss of a row is averaged over; one of the read methods is called
            at least this often.
    """

    def __init__(
        self, state: TrainerState, *, device: torch.device, team: Team, window: int
    ) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._state = state
        self._team = team
        self._window = window
        self._targets: list[int] = []
        self._unread = torch.zeros(window, dtype=dtype, device=device)
        self._count = 0
        self._grad_norm: torch.Tensor | float = state.grad_norm

    def add(self, result: StepResult, *, targets: int) -> None:
        """Take the result of one optimizer step, and how many tokens were its targets."""
        self._targets.append(targets)
        self._unread[self._count] = result.loss_sum
        self._count += 1
        self._grad_norm = result.grad_norm

    def means(self) -> tuple[float, float]:
        """Return the mean loss per token of the last ``window`` steps and of the current epoch.

        In nats, over all ranks, and the same on each; all of them call it.
        """
        self._read()
        epoch = self._state.epoch["loss_sum"] / self._state.epoch["targets"]
        # A checkpoint from before losses were kept by step has none.
        recent = self._state.recent_losses or [epoch]
        return sum(recent) / len(recent), epoch

    def grad_norm(self) -> float:
        """Return the gradient norm of the last step."""
        return float(self._grad_norm)

    def begin_epoch(self) -> None:
        """Start the mean of the next epoch."""
        self._state.epoch = {"loss_sum": 0.0, "targets": 0}

    def store(self) -> None:
        """Write losses and gradient norm into the state; all ranks do so together."""
        self._read()
        self._state.grad_norm = self.grad_norm()

    def _read(self) -> None:
        if self._count == 0:
            return
        shares = self._team.gather(self._unread[: self._count].tolist())
        counts, self._targets = self._targets, []
        self._count = 0
        state = self._state
        # Step by step and in the order of ranks, so that a resumed run gets the same bits.
        for targets, *losses in zip(counts, *shares, strict=True):
            total = sum(losses)
            state.recent_losses.append(total / max(1, targets))
            state.epoch["loss_sum"] += total
            state.epoch["targets"] += targets
        del state.recent_losses[: -self._window]
