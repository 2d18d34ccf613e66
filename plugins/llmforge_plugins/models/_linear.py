"""Linear maps that take the fastest fp32 matrix kernel of the CPU at hand.

PyTorch multiplies fp32 matrices with MKL, whose AVX-512 kernels are for Intel's processors only; on
others it reached 165 GFLOP/s where oneDNN, which PyTorch ships too, reached 390 (two AMD Zen 5
cores, results equally exact). So there fp32 goes through PyTorch's oneDNN operator. Everything
else (bf16, which is oneDNN's anyway, other devices, double) is plain ``torch``.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Products(Protocol):
    """Computes linear maps in a way of its own, such as with rearranged weights."""

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``inputs @ weight.T + bias`` over the last dimension."""
        ...


@cache
def onednn_is_faster() -> bool:
    """Return whether this CPU's fp32 products are better left to oneDNN than to MKL."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkl.is_available():
        return False
    try:
        vendor = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and torch.backends.mkldnn.is_available() and "GenuineIntel" not in vendor


def matmul_transposed(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right.T`` for matrices of one dtype, without autograd.

    ``right`` may be a transposed view at no cost; a transposed ``left`` costs oneDNN a copy.
    """
    if _takes_onednn(left):
        return onednn(left, right, None)
    return left @ right.t()


def weight_gradient(grad: Tensor, inputs: Tensor) -> Tensor:
    """Return ``grad.T @ inputs``, possibly as a transposed view, without autograd."""
    if not _takes_onednn(grad):
        return grad.t() @ inputs
    # oneDNN copies its left factor into row order: let that be the smaller one
    if grad.shape[1] <= inputs.shape[1]:
        return onednn(grad.t(), inputs.t(), None)
    return onednn(inputs.t(), grad.t(), None).t()


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``inputs @ weight.T + bias`` over the last dimension, with autograd."""
    if _takes_onednn(inputs) and not torch.is_autocast_enabled("cpu"):
        outputs: Tensor = _OneDnnLinear.apply(inputs, weight, bias)
        return outputs
    return functional.linear(inputs, weight, bias)


def has_matrix(layer: nn.Module) -> bool:
    """Return whether the ``weight`` of ``layer`` is its matrix, and not one that was quantised."""
    weight = layer.weight
    return isinstance(weight, Tensor) and weight.is_floating_point()


class Linear(nn.Linear):
    """``nn.Linear`` over :func:`linear`."""

    def forward(self, inputs: Tensor, packed: Products | None = None) -> Tensor:
        """Return ``inputs @ weight.T + bias`` over the last dimension."""
        if packed is not None:
            return packed.linear(inputs, self.weight, self.bias)
        return linear(inputs, self.weight, self.bias)


class _OneDnnLinear(torch.autograd.Function):
    """A linear map whose three matrix products are oneDNN's."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the product and keep what the gradients need."""
        ctx.save_for_backward(inputs, weight)
        return onednn(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of inputs, weight and bias."""
        inputs, weight = ctx.saved_tensors
        wants_inputs, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            onednn(grad, weight.t(), None) if wants_inputs else None,
            weight_gradient(rows, inputs.reshape(rows.shape[0], -1)) if wants_weight else None,
            rows.sum(0) if wants_bias else None,
        )


def onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``left @ right.T + bias`` by oneDNN, without autograd."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(left, right, bias, "none", [], "")
    return product


def _takes_onednn(tensor: Tensor) -> bool:
    return (
        tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()  # the compiler takes this operator for inference only
        and onednn_is_faster()
    )
