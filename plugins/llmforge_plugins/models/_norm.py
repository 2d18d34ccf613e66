"""Root-mean-square normalisation with a gradient that is fast on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class RmsNorm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019) over the last dimension.

    On a CPU PyTorch assembles its gradient from a dozen small operations; here it is the fused
    gradient of LayerNorm and one correction.
    """

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` divided by its root mean square and scaled, in its own precision."""
        weight = self.weight.to(x.dtype)  # queries and keys are in the precision of products
        if x.device.type == "cpu" and x.requires_grad and not torch.compiler.is_compiling():
            normalised: Tensor = _RmsNorm.apply(x, weight, self.eps)
            return normalised
        return functional.rms_norm(x, weight.shape, weight, self.eps)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return the normalised ``x`` and keep the inverse of its root mean square."""
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale = mean_square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Return the gradients of ``x`` and of the weight.

        LayerNorm's gradient, told that the mean is zero, is that of RMSNorm less ``scale`` times
        the mean of ``grad * weight``: put that back.
        """
        x, weight, scale = ctx.saved_tensors
        width = x.shape[-1]
        wanted = [True, ctx.needs_input_grad[1], False]
        of_x, of_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, [width], torch.zeros_like(scale), scale, weight, None, wanted
        )
        mean = (grad @ weight).div_(width).unsqueeze(-1)
        return of_x.addcmul_(mean, scale), of_weight, None
