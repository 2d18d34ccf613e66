"""Muon with its Newton-Schulz iterations in fp32, where bf16 is not native."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def orthogonalised(
    matrix: Tensor, *, coefficients: tuple[float, ...], steps: int, eps: float
) -> Tensor:
    """Return a fp32 matrix with its singular values moved to about 1, by Newton-Schulz iterations.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): each iteration
    maps a singular value s to a·s + b·s³ + c·s⁵. The smaller side is on the left, so that the
    square products are small.

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
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Fp32Muon(torch.optim.Muon):
    """``torch.optim.Muon``, which orthogonalises in bf16 on every device, doing so in fp32.

    Options, groups and state are those of ``torch.optim.Muon``: a checkpoint of one is one of the
    other.
    """

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
        state, momentum, rate = self.state[parameter], group["momentum"], float(group["lr"])
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean = state["momentum_buffer"]
        mean.lerp_(gradient, 1 - momentum)
        update = orthogonalised(
            gradient.lerp(mean, momentum) if group["nesterov"] else mean,
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            eps=group["eps"],
        )
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.add_(update, alpha=-rate * _scale(group["adjust_lr_fn"], parameter.shape))


def _scale(rule: str | None, shape: torch.Size) -> float:
    """Return the factor of the learning rate for a matrix, as ``torch.optim.Muon`` defines it."""
    rows, columns = shape
    if rule == "match_rms_adamw":  # Liu et al., "Muon is Scalable for LLM Training" (2025)
        return float(0.2 * max(rows, columns) ** 0.5)
    return float(max(1, rows / columns) ** 0.5)
