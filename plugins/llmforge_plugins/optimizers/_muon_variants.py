"""Muon in the precision of choice, and its later variants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_ROWS_BETA = 0.95  # decay of NorMuon's second moments
_LONG = 2  # columns to rows from which the iterations are cheaper without the matrix itself
_FIRST_MOMENTUM = 0.85  # where a momentum warm-up begins


def orthogonalised(
    matrix: Tensor, *, coefficients: tuple[float, ...], steps: int, eps: float
) -> Tensor:
    """Return a matrix with its singular values moved to about 1, by Newton-Schulz iterations.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): each iteration
    maps a singular value s to a·s + b·s³ + c·s⁵. The smaller side is on the left, so that the
    square products are small. It is computed in the precision of ``matrix``.

    Each iteration multiplies the matrix by a polynomial of its product with its transpose. So for
    a long matrix these factors are made of that small product alone, and the matrix is multiplied
    once: four times as many columns as rows take little more than half of the operations. In fp32
    or more: bf16 has too few digits for squares of small singular values.

    Args:
        matrix: [rows, columns].
        coefficients: a, b and c.
        steps: iterations.
        eps: smallest norm that a matrix is divided by.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    if x.shape[1] >= _LONG * x.shape[0] and x.dtype in (torch.float32, torch.float64):
        x = _polynomial(x @ x.T, coefficients, steps) @ x
        return x.T if tall else x
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _polynomial(square: Tensor, coefficients: tuple[float, ...], steps: int) -> Tensor:
    """Return the product of all iterations' factors a + b·A + c·A², where A becomes factor²·A."""
    a, b, c = coefficients
    total = torch.eye(square.shape[0], dtype=square.dtype, device=square.device)
    for left in reversed(range(steps)):
        factor = torch.addmm(square, square, square, beta=b, alpha=c)
        factor.diagonal().add_(a)
        total = factor @ total
        if left:
            square = factor @ (factor @ square)
    return total


class MuonVariants(torch.optim.Muon):
    """``torch.optim.Muon``, which orthogonalises in bf16 on every device, and what came after it.

    Options, groups and state are those of ``torch.optim.Muon``: a checkpoint of one is one of the
    other, as long as no variant is used that has more state.

    Args:
        groups: as of any optimizer.
        dtype: in which matrices are orthogonalised.
        cautious_decay: weights decay only where the update makes them smaller too (Chen et al.,
            "Cautious Weight Decay", 2025).
        normalised_rows: rows of an update are divided by the root of their mean square over time
            (Li et al., "NorMuon", 2025).
        momentum_warmup: steps in which the momentum rises from 0.85 to its value, as in modded
            nanoGPT (2024).
        muon: further arguments of ``torch.optim.Muon``.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        dtype: torch.dtype,
        cautious_decay: bool = False,
        normalised_rows: bool = False,
        momentum_warmup: int = 0,
        **muon: Any,
    ) -> None:
        super().__init__(groups, **muon)
        self._dtype = dtype
        self._cautious, self._normalised = cautious_decay, normalised_rows
        self._warmup = momentum_warmup

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step over all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, rate = self.state[parameter], float(group["lr"])
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum, mean = self._momentum(state, group["momentum"]), state["momentum_buffer"]
        mean.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(mean, momentum) if group["nesterov"] else mean
        update = orthogonalised(
            update.to(self._dtype),
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            eps=group["eps"],
        )
        if self._normalised:
            update = _with_even_rows(update.to(parameter.dtype), state, eps=group["eps"])
        decay = rate * float(group["weight_decay"])
        if self._cautious and decay:
            parameter.addcmul_(parameter, (parameter * update > 0).to(parameter), value=-decay)
        elif decay:
            parameter.mul_(1 - decay)
        parameter.add_(update, alpha=-rate * _scale(group["adjust_lr_fn"], parameter.shape))

    def _momentum(self, state: dict[str, Any], momentum: float) -> float:
        if not self._warmup:
            return momentum
        step = int(state.get("step", 0))
        state["step"] = torch.tensor(float(step + 1))
        return _FIRST_MOMENTUM + min(1.0, step / self._warmup) * (momentum - _FIRST_MOMENTUM)


def _with_even_rows(update: Tensor, state: dict[str, Any], *, eps: float) -> Tensor:
    """Return ``update`` with rows of like size over time; its own size stays."""
    mean_square = update.square().mean(1, keepdim=True)
    held = state.setdefault("row_mean_square", torch.zeros_like(mean_square))
    held.lerp_(mean_square, 1 - _ROWS_BETA)
    size = update.norm()
    update = update / (held.sqrt() + eps)
    return update * (size / update.norm().clamp(min=eps))


def _scale(rule: str | None, shape: torch.Size) -> float:
    """Return the factor of the learning rate for a matrix, as ``torch.optim.Muon`` defines it."""
    rows, columns = shape
    if rule == "match_rms_adamw":  # Liu et al., "Muon is Scalable for LLM Training" (2025)
        return float(0.2 * max(rows, columns) ** 0.5)
    return float(max(1, rows / columns) ** 0.5)
