"""Loss sums of a run, kept on the device so that a step never waits for a number."""

from __future__ import annotations

import torch

from llmforge.distributed import Place, Team
from llmforge.interfaces.backend import StepResult
from llmforge.run.state import TrainerState


class LossTotals:
    """Sums of the loss since the last row and over the current epoch, and the last gradient norm.

    Reading a value synchronises with the device; :meth:`add` does not.

    Args:
        state: where the sums went on from, and where :meth:`store` writes them back.
        device: of the loss tensors.
        team: the ranks whose losses are added up; each keeps its own share until they are read.
    """

    def __init__(self, state: TrainerState, *, device: torch.device, team: Team) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        window, epoch = _own_share(state, team.place)
        self._state = state
        self._team = team
        self._window = torch.tensor(window, dtype=dtype, device=device)
        self._epoch = torch.tensor(epoch, dtype=dtype, device=device)
        self._grad_norm: torch.Tensor | float = state.grad_norm

    def add(self, result: StepResult, *, targets: int) -> None:
        """Take the result of one optimizer step over ``targets`` tokens."""
        self._window += result.loss_sum
        self._epoch += result.loss_sum
        self._grad_norm = result.grad_norm
        self._state.window["targets"] += targets
        self._state.epoch["targets"] += targets

    def means(self) -> tuple[float, float]:
        """Return the mean loss per token since the last row and in the current epoch, in nats.

        Over all ranks, and the same on each; all of them call it.
        """
        window, epoch = _sums(self._shares())
        return window / self._state.window["targets"], epoch / self._state.epoch["targets"]

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
        """Write the sums and the gradient norm into the state; all ranks do so together."""
        shares = self._shares()
        self._state.window["loss_sum"], self._state.epoch["loss_sum"] = _sums(shares)
        self._state.loss_shares = shares if len(shares) > 1 else []
        self._state.grad_norm = self.grad_norm()

    def _shares(self) -> list[list[float]]:
        return self._team.gather([float(self._window), float(self._epoch)])


def _sums(shares: list[list[float]]) -> tuple[float, float]:
    # Always added in the order of ranks, so that a resumed run gets the same bits.
    return sum(share[0] for share in shares), sum(share[1] for share in shares)


def _own_share(state: TrainerState, place: Place) -> list[float]:
    """Return what of the sums was this rank's; of other ranks than now the leader takes all."""
    if len(state.loss_shares) == place.world_size:
        return state.loss_shares[place.rank]
    return [state.window["loss_sum"], state.epoch["loss_sum"]] if place.is_leader else [0.0, 0.0]
